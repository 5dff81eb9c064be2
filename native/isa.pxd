"""The instruction set in use, for every module that has versions; inline, so no module exists for it.

`callreel.kernels` decides once, when it is imported, which is before any module in it. Such a module has one
line, `cr_<kernel>_use(isa.in_use())`, and calls through the function pointers of its header from then on.
"""

cdef extern from "callreel/cpu.h" nogil:
    ctypedef enum cr_isa:
        CR_ISA_COUNT
    const char *cr_isa_name(cr_isa isa) noexcept
    cr_isa cr_isa_named(const char *name) noexcept
    bint cr_cpu_has(cr_isa isa) noexcept


cdef inline cr_isa in_use() except *:
    """The level that `callreel.kernels.isa()` names."""
    from callreel.kernels import isa
    cdef bytes name = isa().encode()
    return cr_isa_named(name)
