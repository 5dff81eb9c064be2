"""Which instruction sets this machine has, of those the kernels have versions for."""

from isa cimport CR_ISA_COUNT, cr_cpu_has, cr_isa, cr_isa_name


def isas():
    """Name the instruction sets of this machine that the kernels have versions for, best last."""
    levels = range(CR_ISA_COUNT)
    return tuple([cr_isa_name(<cr_isa>isa).decode() for isa in levels if cr_cpu_has(<cr_isa>isa)])
