"""The attacks that vbdguard defends against, for drills, tests and benchmarks."""
