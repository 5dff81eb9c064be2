"""Which instruction sets this machine has, of those the kernels have versions for."""

def isas() -> tuple[str, ...]:
    """Name the instruction sets of this machine that the kernels have versions for, best last.

    'scalar' is always the first. On x86-64 'sse2' follows, then 'avx2' (with FMA) and 'avx512' (F, BW, VL and
    VBMI) where the processor and the operating system have them; on arm64 'neon'.
    """
