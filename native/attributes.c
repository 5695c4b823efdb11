/* The attributes of a phase: which may stay as they were given (`plain`), and those that one is told inside of it
   (`recorders`). */

#include <math.h>

#include "native.h"

/* `plain.are_plain`. False also where only Python can tell: types and names are compared here without their methods. */
int
are_plain(PyObject *kinds, PyObject *given)
{
    PyObject *name, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(given, &at, &name, &value)) {
        PyTypeObject *type = Py_TYPE(value);
        if (!PyUnicode_CheckExact(name)
            || (type != &PyUnicode_Type && type != &PyLong_Type && type != &PyFloat_Type && type != &PyBool_Type))
            return 0;
        PyObject *types = PyDict_GetItemWithError(kinds, name);
        if (types == NULL || PySet_Contains(types, (PyObject *)type) != 1
            || (type == &PyFloat_Type && !isfinite(PyFloat_AS_DOUBLE(value)))) {
            PyErr_Clear();
            return 0;
        }
    }
    return 1;
}

PyObject *
plain(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count == 2 && PyDict_CheckExact(arguments[0]) && PyDict_CheckExact(arguments[1])
        && are_plain(arguments[0], arguments[1]))
        Py_RETURN_TRUE;
    return PyObject_Vectorcall(python_are_plain, arguments, (size_t)count, NULL);
}

/* `recorders._describe`, the short way; False, and nothing is changed, where it is not that. */
static int
describe_here(PyObject *name, PyObject *kinds, PyObject *given)
{
    PyObject *runtime = PyDict_GetItemWithError(names_of_switch, word_runtime), *here = NULL;
    if (runtime == NULL || runtime == Py_None || !PyDict_CheckExact(given) || !PyDict_CheckExact(kinds)
        || PyContextVar_Get(variable, NULL, &here) < 0 || here == NULL)
        return 0;
    PyObject *span = Py_TYPE(here) == type_context ? PyDict_GetItemWithError(here, phase_key) : NULL, *row = NULL;
    if (span != NULL && PyObject_TypeCheck(span, type_span) && bare_trace(span) != NULL)
        row = open_row(span);
    Py_DECREF(here);
    if (row == NULL || PyUnicode_Compare(PyList_GET_ITEM(row, NAME), name) != 0)
        return 0;
    PyObject *attributes = PyList_GET_ITEM(row, ATTRIBUTES);
    if (!PyDict_CheckExact(attributes) || PyDict_GET_SIZE(attributes) >= most || !are_plain(kinds, given))
        return 0;
    Py_INCREF(attributes);
    int done = PyDict_Update(attributes, given) == 0;
    Py_DECREF(attributes);
    return done;
}

PyObject *
describe(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count == 3 && describe_here(arguments[0], arguments[1], arguments[2]))
        Py_RETURN_NONE;
    PyErr_Clear();
    return PyObject_Vectorcall(python_describe, arguments, (size_t)count, NULL);
}
