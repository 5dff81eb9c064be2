"""Functions `f(data, out=None)` that cost no more than a built-in one; inline, so no module exists for it.

Under the limited API of Python 3.11 a `def` of Cython receives its arguments in a new tuple and a new dict.
For one packet of 160 samples that takes longer than everything else. CPython's own calling convention,
METH_FASTCALL, is in the limited API since 3.10: the arguments are read where the interpreter has them.

    cdef object call_f(PyObject *unused, PyObject **args, Py_ssize_t count, PyObject *names):
        cdef PyObject *found[2]
        fastcall.data_and_out("f", "data", args, count, names, found)
        return ...

    cdef fastcall.PyMethodDef f_def = fastcall.method(b"f", call_f, b"f(data, out=None)\n--\n\nWhat it does.")
    f = fastcall.function(&f_def, __name__)

A method `o.f(data)` of a `cdef class C` is made the same way: its object comes as the first argument.

    cdef object call_f(PyObject *self, PyObject **args, Py_ssize_t count, PyObject *names):
        return (<C>self)._f(fastcall.only("f", "data", args, count, names))

    fastcall.add_method(C, &f_def)
"""

from cpython.object cimport PyObject

ctypedef object (*fastcall_fn)(PyObject *unused, PyObject **args, Py_ssize_t count, PyObject *names)


cdef extern from "Python.h":
    ctypedef object (*PyCFunction)(object, object)
    ctypedef struct PyMethodDef:
        const char *ml_name
        PyCFunction ml_meth
        int ml_flags
        const char *ml_doc
    enum:
        METH_FASTCALL
        METH_KEYWORDS
    object PyCFunction_NewEx(PyMethodDef *method, PyObject *bound_to, object module)
    object PyDescr_NewMethod(type kind, PyMethodDef *method)
    # Borrowed references.
    PyObject *PyTuple_GetItem(PyObject *items, Py_ssize_t index) except NULL
    Py_ssize_t PyTuple_Size(PyObject *items) except -1


cdef inline PyMethodDef method(const char *name, fastcall_fn call, const char *doc) noexcept:
    """Describe a function; the description must live as long as the function."""
    cdef PyMethodDef description
    description.ml_name = name
    description.ml_meth = <PyCFunction><void (*)() noexcept>call
    description.ml_flags = METH_FASTCALL | METH_KEYWORDS
    description.ml_doc = doc
    return description


cdef inline object function(PyMethodDef *description, str module):
    """The Python function described; `module` is the name of where it will be found."""
    return PyCFunction_NewEx(description, NULL, module)


cdef inline int add_method(type kind, PyMethodDef *description) except -1:
    """Give a class the method described."""
    setattr(kind, description.ml_name.decode(), PyDescr_NewMethod(kind, description))
    return 0


cdef inline object only(str function, str name, PyObject **args, Py_ssize_t count, PyObject *names):
    """The argument of `function(<name>)`."""
    cdef Py_ssize_t named = 0 if names == NULL else PyTuple_Size(names)
    if count + named != 1:
        raise TypeError(f"{function}() takes 1 argument, not {count + named}")
    if named and <object>PyTuple_GetItem(names, 0) != name:
        raise TypeError(f"{function}() got an unexpected keyword argument '{<object>PyTuple_GetItem(names, 0)}'")
    return <object>args[0]


cdef inline int sort(
    str function, tuple parameters, Py_ssize_t needed, PyObject **args, Py_ssize_t count, PyObject *names,
    PyObject **found
) except -1:
    """Sort arguments into `found`, borrowed, in the order of `parameters`; NULL for those that are not given.

    The first `count` of `args` are positional; behind them stand the values for `names`, a tuple or NULL.
    """
    cdef Py_ssize_t known = PyTuple_Size(<PyObject *>parameters), i, place
    cdef Py_ssize_t named = 0 if names == NULL else PyTuple_Size(names)
    cdef PyObject *name
    if count > known:
        raise TypeError(f"{function}() takes at most {known} arguments, not {count}")
    for i in range(known):
        found[i] = args[i] if i < count else NULL
    for i in range(named):
        name = PyTuple_GetItem(names, i)
        place = 0
        # Names in source code are interned: mostly a comparison of addresses.
        while place < known and PyTuple_GetItem(<PyObject *>parameters, place) != name:
            place += 1
        if place == known:
            place = parameters.index(<object>name) if <object>name in parameters else known
        if place == known:
            raise TypeError(f"{function}() got an unexpected keyword argument '{<object>name}'")
        if found[place] != NULL:
            raise TypeError(f"{function}() got multiple values for argument '{<object>name}'")
        found[place] = args[count + i]
    for i in range(needed):
        if found[i] == NULL:
            raise TypeError(f"{function}() needs the argument '{parameters[i]}'")
    return 0


cdef inline int data_and_out(
    str function, str data_name, PyObject **args, Py_ssize_t count, PyObject *names, PyObject **found
) except -1:
    """Sort the arguments of `function(<data_name>, out=None)` into found[0] and found[1], borrowed.

    The first `count` of `args` are positional; behind them stand the values for `names`, a tuple or NULL.
    """
    if names == NULL and count == 2:
        found[0] = args[0]
        found[1] = args[1]
        return 0
    if count == 1:
        found[0] = args[0]
        if names == NULL:
            found[1] = <PyObject *>None
            return 0
        # Names in source code are interned: one comparison of addresses.
        if PyTuple_Size(names) == 1 and PyTuple_GetItem(names, 0) == <PyObject *>"out":
            found[1] = args[1]
            return 0
    return _data_and_out_by_name(function, data_name, args, count, names, found)


cdef inline int _data_and_out_by_name(
    str function, str data_name, PyObject **args, Py_ssize_t count, PyObject *names, PyObject **found
) except -1:
    cdef Py_ssize_t i, place
    if count > 2:
        raise TypeError(f"{function}() takes 1 or 2 arguments, not {count}")
    for i in range(2):
        found[i] = args[i] if i < count else NULL
    for i in range(0 if names == NULL else PyTuple_Size(names)):
        name = <object>PyTuple_GetItem(names, i)
        if name == data_name:
            place = 0
        elif name == "out":
            place = 1
        else:
            raise TypeError(f"{function}() got an unexpected keyword argument '{name}'")
        if found[place] != NULL:
            raise TypeError(f"{function}() got multiple values for argument '{name}'")
        found[place] = args[count + i]
    if found[0] == NULL:
        raise TypeError(f"{function}() needs the argument '{data_name}'")
    if found[1] == NULL:
        found[1] = <PyObject *>None
    return 0
