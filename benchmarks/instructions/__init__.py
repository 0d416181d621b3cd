"""``python -m benchmarks.instructions``: how many instructions the hot parts take, by callgrind.

A count is the same on a busy machine as on an idle one, so a regression of a tenth shows where a clock would need
hours. Work is counted n times, then 2 n times, and the difference is told: what begins and ends it cancels out. Two
runs of the same files differ by less than 0.1 %, whatever else the machine does; other objects in memory, as of another
case's text, move a case by 1 %.

Only instructions of the process are counted: no system call's inside, no cache miss, no wait.

Counts depend on the compiler, Cython, Python, the C library and what the processor offers to it, so those of another
machine say nothing. ``benchmarks/results/instructions.json`` holds counts (``--save``) and the toolchain that they were
made with. ``--check`` compares with them where the toolchain is the same. Elsewhere it builds the package of the newest
commit that changed this file, with the same Cython and compiler, and counts both with today's cases. The base is found
by what git knows, not by a hash in the file: one commit can hold a change and its counts, and may be rebased.

That base stays until somebody saves anew, so small regressions add up and are seen; the commit before would forgive
each of them. What cannot be compared is a failure too: a shallow clone, a case that was never saved.
"""
