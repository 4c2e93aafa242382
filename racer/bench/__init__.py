"""``racer bench``: methods side by side, on the same prompts, in one process.

Data flow: ``questions`` are drawn and batched, ``methods`` says who answers them, ``run`` asks everybody, through
``adapters``, about every turn in a rotating order. Each call is one ``trials.Trial`` in a journal on the disk;
``summary`` turns the journal into figures; ``report`` and ``answers`` write them down. A resumed run reads the journal
and goes on. ``converter`` is between records and JSON.

:raises ConfigError: the package was installed without its extra ``bench``.
"""

from racer.loading.extras import require

require("bench", "racer bench")
