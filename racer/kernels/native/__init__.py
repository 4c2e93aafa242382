"""Machine code that is written here in LLVM's intermediate language, for what a step does hundreds of times.

Products of a few rows with a weight, and the small operations around them. It runs in the threads that torch has.
"""
