/* What is current (`context`), and the way out of a scope (`scope`). */

#include "native.h"

/* `here` with this span current in it, a new reference. A Context is a dict that Python code cannot change. */
PyObject *
inside(PyObject *here, PyObject *span)
{
    PyObject *context = type_context->tp_new(type_context, no_arguments, NULL);
    if (context == NULL || PyDict_Update(context, here) < 0 || PyDict_SetItem(context, span_key, span) < 0
        || PyDict_SetItem(context, phase_key, span) < 0)
        Py_CLEAR(context);
    return context;
}

/* `context.current`, the short way: a new reference; else NULL, and maybe an exception set. */
static PyObject *
current_span(void)
{
    PyObject *here = NULL, *span = NULL, *abandoned = NULL;
    if (PyContextVar_Get(variable, NULL, &here) < 0 || here == NULL)
        return NULL;
    if (Py_TYPE(here) == type_context) {
        span = PyDict_GetItemWithError(here, phase_key);
        if (span == NULL && !PyErr_Occurred())
            span = Py_None;
        Py_XINCREF(span);
    }
    Py_DECREF(here);
    if (span == NULL || span == Py_None)
        return span;
    PyObject *trace = NULL;
    if (PyObject_TypeCheck(span, type_span) && open_row(span) != NULL)
        trace = PyObject_TypeCheck(span, type_trace) ? span : SLOT(span, at_owner);
    if (trace != NULL && PyObject_TypeCheck(trace, type_trace) && SLOT(trace, at_runtime) != NULL)
        abandoned = PyObject_GetAttr(SLOT(trace, at_runtime), word_abandoned);
    Py_XDECREF(abandoned);
    if (abandoned != Py_False)
        Py_CLEAR(span);
    return span;
}

PyObject *
current(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyObject *span = current_span();
    if (span != NULL)
        return span;
    PyErr_Clear();
    return PyObject_CallNoArgs(python_current);
}

/* Whether nothing of a session is current here. */
int
is_outside(void)
{
    PyObject *here = NULL;
    if (PyContextVar_Get(variable, NULL, &here) < 0 || here == NULL)
        return 0;
    int outside = Py_TYPE(here) == type_context && !PyDict_Contains(here, phase_key);
    Py_DECREF(here);
    return outside;
}

/* Whether it is the one entry that there is, and left without an exception. */
int
is_in_order(PyObject *entered, PyObject *const *arguments, Py_ssize_t count)
{
    return count == 3 && arguments[1] == Py_None && entered != NULL && PyTuple_CheckExact(entered)
           && PyTuple_GET_SIZE(entered) == 3 && PyTuple_GET_ITEM(entered, 2) == Py_None;
}

/* Leave a scope that was entered once, in order: `end` is the short way to end its span. */
PyObject *
leave_scope(PyObject *self, PyObject *entered, Py_ssize_t at, PyObject *kind, int (*end)(PyObject *))
{
    PyObject *span = Py_NewRef(PyTuple_GET_ITEM(entered, 0)), *token = Py_NewRef(PyTuple_GET_ITEM(entered, 1));
    PyObject *result = NULL;
    put(self, at, Py_NewRef(Py_None));
    int reset = PyContextVar_Reset(variable, token);
    if (reset < 0 && (PyErr_ExceptionMatches(PyExc_ValueError) || PyErr_ExceptionMatches(PyExc_RuntimeError))) {
        PyErr_Clear(); /* left in another context than it was entered in */
        reset = 0;
    }
    if (reset == 0) {
        if (end(span))
            result = Py_NewRef(Py_None);
        else {
            PyErr_Clear();
            result = PyObject_CallMethodObjArgs(SLOT(span, at_owner), word_end_span, span, NULL);
        }
    }
    if (result == NULL) { /* an error of ours, or a signal handler's: Python knows what becomes of it */
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL)
            PyException_SetTraceback(error, traceback);
        result = PyObject_CallMethodObjArgs(self, word_interrupted, error, span, token, kind, Py_None, NULL);
        Py_XDECREF(type), Py_XDECREF(error), Py_XDECREF(traceback);
    }
    Py_DECREF(span), Py_DECREF(token);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    Py_RETURN_NONE;
}
