/* A session is worked on (`sessions`): it is enqueued and executed, and spans below it end. */

#include "session.h"

/* `Session.mark_enqueued`, the short way; False, and nothing is changed, where it is not that. */
static int
enqueue(PyObject *self)
{
    if (!is_usual(self) || is_executing(self) || !waits_for(self, name_queue_wait))
        return 0;
    PyObject *stamp = now(self), *next = stamp == NULL ? NULL : new_wait(self, name_runner_wait, stamp);
    int done = 0;
    if (next != NULL && take_lock(self)) {
        if (is_usual(self) && !is_executing(self) && waits_for(self, name_queue_wait)
            && PyList_Append(SLOT(self, at_spans), next) == 0) {
            set_end(SLOT(self, at_wait), end_of(SLOT(self, at_wait), stamp));
            put(self, at_wait, Py_NewRef(next));
            done = 1;
        }
        give_lock(self);
    }
    Py_XDECREF(next), Py_XDECREF(stamp);
    return done;
}

PyObject *
mark_enqueued(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (enqueue(self))
        Py_RETURN_NONE;
    PyErr_Clear();
    return PyObject_CallOneArg(python_enqueued, self);
}

/* Whether work may begin: it waits for that, and has no verdict. */
static int
may_begin(PyObject *self)
{
    return is_usual(self) && !is_executing(self) && SLOT(self, at_status) == name_pending && open_wait(self) != NULL
           && !waits_for(self, name_post_wait);
}

/* `Session.start_execution`, the short way: a new reference; else NULL, nothing is changed, and maybe an exception set. */
static PyObject *
execute(PyObject *self, PyObject *given)
{
    PyObject *said = PyDict_GetItemWithError(known_names, name_execution);
    if (said == NULL || !PyTuple_CheckExact(said) || !PyDict_CheckExact(given) || PyDict_GET_SIZE(given)
        || !may_begin(self))
        return NULL;
    PyObject *span = new_span(self, begin(self, SLOT(self, at_row), said, given)), *executing = NULL;
    if (span != NULL)
        executing = PyTuple_Pack(1, span);
    int done = 0;
    if (executing != NULL && take_lock(self)) {
        if (may_begin(self) && PyList_Append(SLOT(self, at_spans), span) == 0) {
            set_end(SLOT(self, at_wait), end_of(SLOT(self, at_wait), PyList_GET_ITEM(SLOT(span, at_row), START)));
            put(self, at_bare, Py_NewRef(Py_True));
            put(self, at_executing, Py_NewRef(executing));
            put(self, at_wait, Py_NewRef(Py_None));
            done = 1;
        }
        give_lock(self);
    }
    Py_XDECREF(executing);
    if (!done)
        Py_CLEAR(span);
    return span;
}

PyObject *
start_execution(PyObject *self, PyObject *given)
{
    PyObject *span = execute(self, given);
    if (span != NULL)
        return span;
    PyErr_Clear();
    return PyObject_CallFunctionObjArgs(python_execution, self, given, NULL);
}

/* Whether this span can be ended, and nothing waits for that but maybe the wait behind an execution. */
static int
may_end(PyObject *self, PyObject *span)
{
    return is_usual(self) && SLOT(self, at_bare) == Py_True && PyObject_TypeCheck(span, type_span)
           && open_row(span) != NULL && SLOT(span, at_mirror) == Py_None && PyTuple_GET_SIZE(SLOT(self, at_executing)) < 2;
}

/* `Session.end_span`, the short way; False, and nothing is changed, where it is not that. */
static int
end_here(PyObject *self, PyObject *span)
{
    if (!may_end(self, span))
        return 0;
    int last = is_executing(self) && PyTuple_GET_ITEM(SLOT(self, at_executing), 0) == span, done = 0;
    PyObject *stamp = now(self), *wait = NULL;
    if (stamp != NULL && last)
        wait = new_wait(self, name_post_wait, stamp);
    if (stamp != NULL && (wait != NULL || !last) && take_lock(self)) {
        done = may_end(self, span)
               && last == (is_executing(self) && PyTuple_GET_ITEM(SLOT(self, at_executing), 0) == span)
               && (!last || (SLOT(self, at_wait) == Py_None && PyList_Append(SLOT(self, at_spans), wait) == 0));
        if (done)
            set_end(span, stamp);
        if (done && last) {
            put(self, at_bare, Py_NewRef(Py_False));
            put(self, at_wait, Py_NewRef(wait));
            put(self, at_executing, Py_NewRef(no_arguments));
        }
        give_lock(self);
    }
    Py_XDECREF(stamp), Py_XDECREF(wait);
    return done;
}

PyObject *
session_end_span(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    if (names == NULL && (count == 1 || (count == 2 && arguments[1] == Py_None)) && end_here(self, arguments[0]))
        Py_RETURN_TRUE;
    PyErr_Clear();
    return with_self(python_end_span, self, arguments, count, names);
}

static int
end_execution(PyObject *span)
{
    PyObject *session = SLOT(span, at_owner);
    return session != NULL && PyObject_TypeCheck(session, type_session) && end_here(session, span);
}

/* `session.execution()`, without its attributes' dict being made on the way. */
PyObject *
session_execution(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    if (count || (names != NULL && PyTuple_GET_SIZE(names)))
        return with_self(python_make_execution, self, arguments, count, names);
    PyObject *given = PyDict_New(), *made = given == NULL ? NULL : type_execution->tp_alloc(type_execution, 0);
    if (made == NULL) {
        Py_XDECREF(given);
        return NULL;
    }
    SLOT(made, at_its_session) = Py_NewRef(self);
    SLOT(made, at_its_name) = Py_NewRef(name_execution);
    SLOT(made, at_its_attributes) = given;
    SLOT(made, at_its_entry) = Py_NewRef(Py_None);
    return made;
}

/* `with session.execution()`, the short way: a new reference; else NULL, and maybe an exception set. */
static PyObject *
enter_execution(PyObject *self)
{
    PyObject *session = SLOT(self, at_its_session), *given = SLOT(self, at_its_attributes), *here = NULL;
    if (session == NULL || Py_TYPE(session) != type_session || given == NULL || SLOT(self, at_its_entry) != Py_None
        || !may_begin(session) || PyContextVar_Get(variable, NULL, &here) < 0 || here == NULL)
        return NULL;
    PyObject *span = Py_TYPE(here) == type_context ? execute(session, given) : NULL, *context = NULL, *token = NULL;
    PyObject *entered = NULL;
    if (span != NULL && (context = inside(here, span)) != NULL && (token = PyContextVar_Set(variable, context)) != NULL
        && (entered = PyTuple_Pack(3, span, token, Py_None)) != NULL)
        put(self, at_its_entry, entered);
    else if (span != NULL) { /* no memory: Python begins another one */
        PyErr_Clear();
        end_here(session, span);
        Py_CLEAR(span);
    }
    Py_DECREF(here), Py_XDECREF(context), Py_XDECREF(token);
    return span;
}

PyObject *
execution_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *span = enter_execution(self);
    if (span != NULL)
        return span;
    PyErr_Clear();
    return PyObject_CallOneArg(python_scope_enter, self);
}

PyObject *
execution_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *entered = SLOT(self, at_its_entry);
    if (is_in_order(entered, arguments, count) && Py_TYPE(PyTuple_GET_ITEM(entered, 0)) == type_span)
        return leave_scope(self, entered, at_its_entry, arguments[0], end_execution);
    return with_self(python_scope_exit, self, arguments, count, NULL);
}

/* `TraceLog.add_span` while it is bare; False, and nothing is changed, where it is not that. */
static int
add_here(PyObject *self, PyObject *name, PyObject *parent, PyObject *start)
{
    PyObject *said = PyUnicode_CheckExact(name) ? PyDict_GetItemWithError(known_names, name) : NULL;
    if (said == NULL || !is_usual(self) || SLOT(self, at_bare) != Py_True || !PyObject_TypeCheck(parent, type_span)
        || SLOT(parent, at_row) == NULL || !PyList_CheckExact(SLOT(parent, at_row)))
        return 0;
    PyObject *none = PyDict_New(), *row = none == NULL ? NULL : begin(self, SLOT(parent, at_row), said, none), *span = NULL;
    if (row != NULL && PyList_SetItem(row, END, Py_NewRef(PyList_GET_ITEM(row, START))) == 0
        && PyList_SetItem(row, START, Py_NewRef(start)) == 0)
        span = new_span(self, Py_NewRef(row));
    int done = span != NULL && is_usual(self) && SLOT(self, at_bare) == Py_True
               && PyList_Append(SLOT(self, at_spans), span) == 0;
    Py_XDECREF(none), Py_XDECREF(row), Py_XDECREF(span);
    return done;
}

PyObject *
session_add_span(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    if (names == NULL && (count == 3 || (count == 4 && arguments[3] == Py_None))
        && add_here(self, arguments[0], arguments[1], arguments[2]))
        Py_RETURN_NONE;
    PyErr_Clear();
    return with_self(python_add_span, self, arguments, count, names);
}
