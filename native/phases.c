/* A phase is made, entered and left (`phases`). */

#include "native.h"

/* Whether nobody has entered this phase, in this thread or another. */
static int
is_fresh(PyObject *phase)
{
    return SLOT(phase, at_owner) == Py_None && SLOT(phase, at_entered) == Py_None;
}

/* `phase.__enter__`, the short way: a new reference; else NULL, nothing is changed, and maybe an exception is set. */
static PyObject *
enter(PyObject *self, PyObject *here)
{
    PyObject *parent = PyDict_GetItemWithError(here, phase_key);
    PyObject *given = SLOT(self, at_attributes), *said = SLOT(self, at_said);
    if (parent == NULL || !PyObject_TypeCheck(parent, type_span) || !is_fresh(self))
        return NULL;
    PyObject *trace = bare_trace(parent), *above = open_row(parent), *spans = NULL;
    if (trace == NULL || above == NULL || given == NULL || !PyDict_CheckExact(given) || said == NULL
        || !PyTuple_CheckExact(said) || PyTuple_GET_SIZE(said) != 4)
        return NULL;
    if (PyDict_GET_SIZE(given) && !are_plain(PyTuple_GET_ITEM(said, 3), given))
        return NULL;
    spans = SLOT(trace, at_spans);
    if (spans == NULL || !PyList_CheckExact(spans) || SLOT(trace, at_indices) == NULL)
        return NULL;

    Py_INCREF(parent), Py_INCREF(trace), Py_INCREF(above);
    PyObject *token = NULL, *entered = NULL, *context = inside(here, self);
    PyObject *row = context == NULL ? NULL : begin(trace, above, said, given);
    /* The garbage collector may have run finalizers, and they another thread, which shares this phase or this trace. */
    if (row == NULL || !is_fresh(self) || SLOT(trace, at_bare) != Py_True)
        goto done;
    token = PyContextVar_Set(variable, context);
    entered = token == NULL ? NULL : PyTuple_Pack(3, self, token, Py_None);
    if (entered != NULL && PyList_Append(SLOT(trace, at_spans), self) < 0)
        Py_CLEAR(entered);
    if (entered == NULL) {
        if (token != NULL) {
            PyErr_Clear();
            PyContextVar_Reset(variable, token);
        }
        goto done;
    }
    put(self, at_row, Py_NewRef(row));
    put(self, at_mirror, Py_NewRef(Py_None));
    put(self, at_span_context, Py_NewRef(Py_None));
    put(self, at_parent, Py_NewRef(parent));
    put(self, at_owner, Py_NewRef(trace));
    put(self, at_entered, Py_NewRef(entered));

done:
    Py_XDECREF(row), Py_XDECREF(context), Py_XDECREF(token);
    Py_DECREF(parent), Py_DECREF(trace), Py_DECREF(above);
    if (entered == NULL)
        return NULL;
    Py_DECREF(entered);
    return Py_NewRef(self);
}

/* Call a type as if it had no function for that. */
static PyObject *
as_any_type(PyObject *type, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    PyObject *tuple = PyTuple_New(count), *named = names == NULL ? NULL : PyDict_New(), *made = NULL;
    int failed = tuple == NULL || (names != NULL && named == NULL);
    for (Py_ssize_t i = 0; !failed && i < count; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(arguments[i]));
    for (Py_ssize_t i = 0; !failed && names != NULL && i < PyTuple_GET_SIZE(names); i++)
        failed = PyDict_SetItem(named, PyTuple_GET_ITEM(names, i), arguments[count + i]) < 0;
    if (!failed)
        made = PyType_Type.tp_call(type, tuple, named);
    Py_XDECREF(tuple), Py_XDECREF(named);
    return made;
}

/* `phase(...)`, without the dict of keywords being made and taken apart on its way to `__init__`. */
PyObject *
phase_new(PyObject *type, PyObject *const *arguments, size_t flags, PyObject *names)
{
    PyObject *said = NULL;
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (PyVectorcall_NARGS(flags) == 1 && PyUnicode_CheckExact(arguments[0]))
        said = PyDict_GetItemWithError(known_names, arguments[0]);
    if (said == NULL) {
        PyErr_Clear();
        return as_any_type(type, arguments, PyVectorcall_NARGS(flags), names);
    }
    Py_INCREF(said);
    PyObject *given = PyDict_New(), *made = NULL;
    for (Py_ssize_t i = 0; given != NULL && i < named; i++)
        if (PyDict_SetItem(given, PyTuple_GET_ITEM(names, i), arguments[1 + i]) < 0)
            Py_CLEAR(given);
    if (given != NULL)
        made = type_phase->tp_alloc(type_phase, 0);
    if (made == NULL) {
        Py_DECREF(said), Py_XDECREF(given);
        return NULL;
    }
    SLOT(made, at_said) = said;
    SLOT(made, at_attributes) = given;
    SLOT(made, at_entered) = Py_NewRef(Py_None);
    SLOT(made, at_owner) = Py_NewRef(Py_None);
    return made;
}

PyObject *
phase_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *runtime = PyDict_GetItemWithError(names_of_switch, word_runtime), *here = NULL, *entered = NULL;
    if (runtime != NULL && runtime != Py_None && PyContextVar_Get(variable, NULL, &here) == 0 && here != NULL
        && Py_TYPE(here) == type_context)
        entered = enter(self, here);
    Py_XDECREF(here);
    if (entered != NULL)
        return entered;
    PyErr_Clear();
    return PyObject_CallOneArg(python_enter, self);
}

/* `phase.__exit__`, the short way; False, and nothing is changed, where it is not that. */
static int
leave(PyObject *self, PyObject *row)
{
    PyObject *trace = bare_trace(self), *ref = PyList_GET_ITEM(row, REF);
    if (trace == NULL || !PyLong_CheckExact(ref))
        return 0;
    /* Every so many phases one looks whether a line is due (`end_span` does). */
    long number = PyLong_AsLong(ref);
    if (number < 0 || number % write_every == 0) {
        PyErr_Clear();
        return 0;
    }
    Py_INCREF(trace);
    PyObject *end = now(trace);
    int still = end != NULL && SLOT(trace, at_bare) == Py_True && PyList_GET_ITEM(row, END) == Py_None;
    Py_DECREF(trace);
    if (still)
        return PyList_SetItem(row, END, end) == 0;
    PyErr_Clear();
    Py_XDECREF(end);
    return 0;
}

/* End a phase, the short way; False, and nothing is changed, where it is not that. */
static int
end_phase(PyObject *span)
{
    PyObject *row = open_row(span);
    if (row == NULL)
        return 0;
    Py_INCREF(row);
    int done = leave(span, row);
    Py_DECREF(row);
    return done;
}

PyObject *
phase_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *entered = SLOT(self, at_entered);
    if (is_in_order(entered, arguments, count) && PyTuple_GET_ITEM(entered, 0) == self)
        return leave_scope(self, entered, at_entered, arguments[0], end_phase);
    return with_self(python_exit, self, arguments, count, NULL);
}
