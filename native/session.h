/* A session as its marks find it, for those who make them as `sessions` and `verdicts` do: what is usual is a session with
   waits and light spans that goes from one mark to the next. Everything is changed after the last step that may fail or
   let other code run, while nobody else holds the lock, for which nothing here waits. */

#ifndef ROLLSPAN_SESSION_H
#define ROLLSPAN_SESSION_H

#include "native.h"

/* Put a new reference, or an error, into a dict under a name. */
static inline int
add(PyObject *dict, PyObject *name, PyObject *value)
{
    int failed = value == NULL || PyDict_SetItem(dict, name, value) < 0;
    Py_XDECREF(value);
    return failed ? -1 : 0;
}

/* Whether it is this process's, open, light, with waits, not at a line, and no line is due for so many spans. */
static inline int
is_usual(PyObject *self)
{
    PyObject *spans = SLOT(self, at_spans), *due = SLOT(self, at_write_at), *executing = SLOT(self, at_executing);
    if (SLOT(self, at_runtime) == NULL || SLOT(self, at_tracer) != Py_None || SLOT(self, at_block) != Py_False
        || SLOT(self, at_writing) != Py_False || SLOT(self, at_indices) == NULL || open_row(self) == NULL
        || spans == NULL || !PyList_CheckExact(spans) || due == NULL || executing == NULL
        || !PyTuple_CheckExact(executing) || PyList_GET_SIZE(spans) + 1 >= PyLong_AsSsize_t(due))
        return 0;
    PyObject *abandoned = PyObject_GetAttr(SLOT(self, at_runtime), word_abandoned);
    Py_XDECREF(abandoned); /* it is one of those that are never let go */
    return abandoned == Py_False;
}

static inline int
is_executing(PyObject *self)
{
    return PyTuple_GET_SIZE(SLOT(self, at_executing)) > 0;
}

/* The wait that is open, borrowed, where there is one. */
static inline PyObject *
open_wait(PyObject *self)
{
    PyObject *wait = SLOT(self, at_wait);
    return wait != NULL && Py_TYPE(wait) == type_span && open_row(wait) != NULL ? wait : NULL;
}

static inline int
waits_for(PyObject *self, PyObject *name)
{
    PyObject *wait = open_wait(self);
    return wait != NULL && PyList_GET_ITEM(SLOT(wait, at_row), NAME) == name;
}

/* The end of a wait: not before its start. Borrowed. */
static inline PyObject *
end_of(PyObject *wait, PyObject *end)
{
    PyObject *start = PyList_GET_ITEM(SLOT(wait, at_row), START);
    return PyObject_RichCompareBool(end, start, Py_LT) == 1 ? start : end;
}

static inline void
set_end(PyObject *span, PyObject *end)
{
    PyList_SetItem(SLOT(span, at_row), END, Py_NewRef(end));
}

/* Whether the lock was free, and is taken. */
static inline int
take_lock(PyObject *self)
{
    PyObject *taken = PyObject_CallMethodOneArg(SLOT(self, at_lock), word_acquire, Py_False);
    Py_XDECREF(taken);
    return taken == Py_True;
}

static inline void
give_lock(PyObject *self)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    Py_XDECREF(PyObject_CallMethodNoArgs(SLOT(self, at_lock), word_release));
    PyErr_Restore(type, error, traceback);
}

/* An attribute of the runtime that must be a dict: a new reference. */
static inline PyObject *
dict_of(PyObject *runtime, PyObject *name)
{
    PyObject *found = PyObject_GetAttr(runtime, name);
    if (found != NULL && !PyDict_CheckExact(found))
        Py_CLEAR(found);
    return found;
}

static inline int
has_steps(PyObject *runtime)
{
    PyObject *steps = dict_of(runtime, word_steps);
    int some = steps == NULL || PyDict_GET_SIZE(steps);
    Py_XDECREF(steps);
    return some;
}

#endif
