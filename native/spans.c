/* Rows, and spans that are views of them, as `tracelog` and `waits` make them. */

#include "native.h"

/* The row of a phase that begins, as `TraceLog.start_span` makes it, a new reference. */
PyObject *
begin(PyObject *trace, PyObject *above, PyObject *said, PyObject *given)
{
    PyObject *always = PyTuple_GET_ITEM(said, 2), *attributes = PyDict_Copy(always == Py_None ? given : always);
    PyObject *row = NULL, *ref = NULL, *start = NULL;
    if (attributes == NULL || (always != Py_None && PyDict_Update(attributes, given) < 0))
        goto failed;
    ref = PyIter_Next(SLOT(trace, at_indices));
    start = ref == NULL ? NULL : now(trace);
    row = start == NULL ? NULL : PyList_New(ROW); /* last: nobody may see a list with nothing in it */
    if (row == NULL)
        goto failed;
    PyList_SET_ITEM(row, REF, ref);
    PyList_SET_ITEM(row, PARENT, Py_NewRef(PyList_GET_ITEM(above, REF)));
    PyList_SET_ITEM(row, NAME, Py_NewRef(PyTuple_GET_ITEM(said, 0)));
    PyList_SET_ITEM(row, KIND, Py_NewRef(PyTuple_GET_ITEM(said, 1)));
    PyList_SET_ITEM(row, START, start);
    PyList_SET_ITEM(row, END, Py_NewRef(Py_None));
    PyList_SET_ITEM(row, ATTRIBUTES, attributes);
    PyList_SET_ITEM(row, STATUS, Py_NewRef(zero));
    PyList_SET_ITEM(row, MESSAGE, Py_NewRef(no_text));
    return uncollected(row);

failed:
    Py_XDECREF(ref);
    Py_XDECREF(start);
    Py_XDECREF(attributes);
    return NULL;
}

/* A row, a new reference; `ref` and `attributes` are given away. */
PyObject *
new_row(PyObject *ref, PyObject *parent, PyObject *name, PyObject *start, PyObject *attributes)
{
    PyObject *row = ref == NULL || attributes == NULL ? NULL : PyList_New(ROW);
    if (row == NULL) {
        Py_XDECREF(ref), Py_XDECREF(attributes);
        return NULL;
    }
    PyObject *items[ROW] = {ref, Py_NewRef(parent), Py_NewRef(name), Py_NewRef(internal), Py_NewRef(start),
                            Py_NewRef(Py_None), attributes, Py_NewRef(zero), Py_NewRef(no_text)};
    for (int i = 0; i < ROW; i++)
        PyList_SET_ITEM(row, i, items[i]);
    return uncollected(row);
}

/* A span of this row below the root, a new reference; the row is given away. */
PyObject *
new_span(PyObject *trace, PyObject *row)
{
    PyObject *span = row == NULL ? NULL : type_span->tp_alloc(type_span, 0);
    if (span == NULL) {
        Py_XDECREF(row);
        return NULL;
    }
    SLOT(span, at_owner) = Py_NewRef(trace);
    SLOT(span, at_parent) = Py_NewRef(trace);
    SLOT(span, at_row) = row;
    SLOT(span, at_mirror) = Py_NewRef(Py_None);
    SLOT(span, at_span_context) = Py_NewRef(Py_None);
    return uncollected(span);
}

PyObject *
new_wait(PyObject *self, PyObject *name, PyObject *start)
{
    PyObject *root = PyList_GET_ITEM(SLOT(self, at_row), REF), *ref = PyIter_Next(SLOT(self, at_indices));
    return new_span(self, new_row(ref, root, name, start, PyDict_New()));
}
