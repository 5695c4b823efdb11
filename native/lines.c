/* Lines of the journal (`lines`): how they are written, and what those of a session are made of (`tracelog`). */

#include "session.h"

/* Whether a line's JSON is no longer than one attribute may be: only then there is nothing to be cut. */
static int
is_short(PyObject *runtime, PyObject *payload)
{
    PyObject *settings = PyObject_GetAttr(runtime, word_settings), *limit = NULL;
    if (settings != NULL)
        limit = PyObject_GetAttr(settings, word_attribute_max_bytes);
    Py_XDECREF(settings);
    Py_ssize_t most_bytes = limit == NULL ? -1 : PyLong_AsSsize_t(limit);
    Py_XDECREF(limit);
    return PyBytes_GET_SIZE(payload) <= most_bytes;
}

/* `TraceLog._send`, up to the line: a new reference; else NULL, nothing is changed, and maybe an exception is set. */
PyObject *
line_of(PyObject *self, PyObject *kind, PyObject *part)
{
    PyObject *trace = SLOT(self, at_trace_hex), *runtime = SLOT(self, at_runtime), *line = NULL;
    if (trace == NULL || runtime == NULL || !PyBytes_CheckExact(kind) || !PyBytes_CheckExact(trace))
        return NULL;
    PyObject *payload = PyObject_CallOneArg(dumps, part);
    if (payload != NULL && PyBytes_CheckExact(payload) && is_short(runtime, payload))
        line = framed(kind, trace, payload);
    Py_XDECREF(payload);
    return line;
}

PyObject *
trace_send(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *line = count == 2 ? line_of(self, arguments[0], arguments[1]) : NULL, *next = NULL;
    if (line != NULL && SLOT(self, at_sequence) != NULL)
        next = PyNumber_Add(SLOT(self, at_sequence), one);
    if (next == NULL) {
        Py_XDECREF(line);
        PyErr_Clear();
        PyObject *all[] = {self, count > 0 ? arguments[0] : NULL, count > 1 ? arguments[1] : NULL};
        return PyObject_Vectorcall(python_send, all, (size_t)(count < 2 ? count : 2) + 1, NULL);
    }
    put(self, at_sequence, next);
    PyObject *journal = PyObject_GetAttr(SLOT(self, at_runtime), word_journal), *done = NULL;
    if (journal != NULL)
        done = PyObject_CallMethodOneArg(journal, word_append, line);
    Py_XDECREF(journal);
    Py_DECREF(line);
    return done;
}

/* The rows of all spans, which must have ended but for the wait: a new list, with the wait as it ends, where it does. */
PyObject *
rows_of(PyObject *self, PyObject *wait, PyObject *end)
{
    PyObject *spans = PyList_GetSlice(SLOT(self, at_spans), 0, PY_SSIZE_T_MAX), *rows = spans == NULL ? NULL : PyList_New(0);
    for (Py_ssize_t i = 0; rows != NULL && i < PyList_GET_SIZE(spans); i++) {
        PyObject *span = PyList_GET_ITEM(spans, i), *row = SLOT(span, at_row);
        int failed = row == NULL || !PyList_CheckExact(row) || PyList_GET_SIZE(row) != ROW;
        if (!failed && span != wait)
            failed = PyList_GET_ITEM(row, END) == Py_None || PyList_Append(rows, row) < 0;
        else if (!failed && end != NULL) {
            PyObject *ended = PyList_GetSlice(row, 0, ROW);
            failed = ended == NULL || PyList_SetItem(ended, END, Py_NewRef(end_of(wait, end))) < 0
                     || PyList_Append(rows, ended) < 0;
            Py_XDECREF(ended);
        }
        if (failed)
            Py_CLEAR(rows);
    }
    Py_XDECREF(spans);
    return rows;
}

/* Write a line in one step; False, and nothing is changed, where it does not fit into the segment. */
int
written(PyObject *self, PyObject *line)
{
    PyObject *journal = PyObject_GetAttr(SLOT(self, at_runtime), word_journal), *write = NULL, *done = NULL;
    if (journal != NULL)
        write = PyObject_GetAttr(journal, word_write);
    if (write != NULL)
        done = PyObject_CallOneArg(write, line);
    Py_XDECREF(journal), Py_XDECREF(write), Py_XDECREF(done);
    return done != NULL;
}

/* Write it into the next segment: 1, or -1 with an exception. */
int
appended(PyObject *self, PyObject *line)
{
    PyErr_Clear();
    PyObject *journal = PyObject_GetAttr(SLOT(self, at_runtime), word_journal), *done = NULL;
    if (journal != NULL)
        done = PyObject_CallMethodOneArg(journal, word_append, line);
    Py_XDECREF(journal), Py_XDECREF(done);
    return done == NULL ? -1 : 1;
}

/* The attributes that a line has: those that wait for one, and new ones. A new reference. */
PyObject *
with_changes(PyObject *self, PyObject *changes)
{
    if (!PyDict_GET_SIZE(SLOT(self, at_changes)))
        return Py_NewRef(changes);
    PyObject *all = PyDict_Copy(SLOT(self, at_changes));
    if (all != NULL && PyDict_Update(all, changes) < 0)
        Py_CLEAR(all);
    return all;
}

/* The wait as a line has it that leaves it open, in a list: a new reference. */
PyObject *
still_open(PyObject *wait)
{
    PyObject *row = SLOT(wait, at_row), *open = PyList_GetSlice(row, 0, END), *all = NULL;
    if (open != NULL && PyList_Append(open, PyList_GET_ITEM(row, ATTRIBUTES)) == 0 && (all = PyList_New(1)) != NULL)
        PyList_SET_ITEM(all, 0, Py_NewRef(open));
    Py_XDECREF(open);
    return all;
}

/* [(ref, number of attributes)] of the wait, see `TraceLog._new`. */
PyObject *
as_written(PyObject *wait)
{
    PyObject *row = SLOT(wait, at_row);
    PyObject *told = Py_BuildValue("[(On)]", PyList_GET_ITEM(row, REF), PyDict_Size(PyList_GET_ITEM(row, ATTRIBUTES)));
    if (told != NULL)
        uncollected(PyList_GET_ITEM(told, 0));
    return uncollected(told);
}
