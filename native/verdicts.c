/* What becomes of a session (`verdicts`): it is accepted, and consumed. */

#include <math.h>

#include "session.h"

/* Whether a line may be written with nothing in it but spans and attributes. */
static int
is_at_rest(PyObject *self)
{
    PyObject *row = open_row(self), *links = SLOT(self, at_links), *changes = SLOT(self, at_changes);
    return row != NULL && PyList_GET_ITEM(row, STATUS) == zero && links != NULL && PyTuple_CheckExact(links)
           && !PyTuple_GET_SIZE(links) && changes != NULL && PyDict_CheckExact(changes)
           && PyDict_CheckExact(PyList_GET_ITEM(row, ATTRIBUTES)) && PyLong_CheckExact(SLOT(self, at_sequence));
}

/* What a line takes from a session, to see whether it still has the same once the line is made: new references. */
typedef struct {
    PyObject *wait, *changes, *sequence;
    Py_ssize_t spans, changed;
} Taken;

static Taken
taken_from(PyObject *self)
{
    return (Taken){Py_NewRef(SLOT(self, at_wait)), Py_NewRef(SLOT(self, at_changes)), Py_NewRef(SLOT(self, at_sequence)),
                   PyList_GET_SIZE(SLOT(self, at_spans)), PyDict_GET_SIZE(SLOT(self, at_changes))};
}

static void
forget(Taken taken)
{
    Py_DECREF(taken.wait), Py_DECREF(taken.changes), Py_DECREF(taken.sequence);
}

static int
is_still(PyObject *self, Taken before)
{
    return is_usual(self) && is_at_rest(self) && open_wait(self) == before.wait
           && SLOT(self, at_changes) == before.changes && PyDict_GET_SIZE(before.changes) == before.changed
           && SLOT(self, at_sequence) == before.sequence && PyList_GET_SIZE(SLOT(self, at_spans)) == before.spans;
}

/* The verdict's attributes, a new reference; NULL, and maybe an exception set, where Python has to look at them. */
static PyObject *
said_by_verdict(PyObject *stats, PyObject *reward)
{
    int plain_reward = reward == Py_None || (PyFloat_CheckExact(reward) && isfinite(PyFloat_AS_DOUBLE(reward)));
    PyObject *changes = plain_reward ? PyDict_New() : NULL;
    if (changes == NULL || PyDict_SetItem(changes, name_status, name_accepted) < 0
        || (reward != Py_None && PyDict_SetItem(changes, name_reward_score, reward) < 0)) {
        Py_XDECREF(changes);
        return NULL;
    }
    for (Py_ssize_t i = 0; stats != Py_None && i < PyTuple_GET_SIZE(stats_names); i++) {
        PyObject *pair = PyTuple_GET_ITEM(stats_names, i), *value = PyObject_GetAttr(stats, PyTuple_GET_ITEM(pair, 0));
        int overflow = value == NULL || !PyLong_CheckExact(value);
        if (!overflow)
            PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow || PyDict_SetItem(changes, PyTuple_GET_ITEM(pair, 1), value) < 0) {
            Py_XDECREF(value), Py_DECREF(changes);
            return NULL;
        }
        Py_DECREF(value);
    }
    return changes;
}

/* `mark_accepted` behind the execution, the short way; False, and nothing is changed, where it is not that. */
static int
accept(PyObject *self, PyObject *stats, PyObject *reward)
{
    if (!is_usual(self) || SLOT(self, at_status) != name_pending || is_executing(self)
        || !waits_for(self, name_post_wait) || !is_at_rest(self))
        return 0;
    PyObject *changes = said_by_verdict(stats, reward), *part = changes == NULL ? NULL : PyDict_New(), *line = NULL;
    if (part == NULL || !is_usual(self) || !is_at_rest(self) || !waits_for(self, name_post_wait)) {
        Py_XDECREF(changes), Py_XDECREF(part);
        return 0;
    }
    Taken before = taken_from(self);
    PyObject *wait = before.wait, *open_spans = PyList_New(1), *none = PyDict_New();
    PyObject *told = as_written(wait), *next = PyNumber_Add(before.sequence, one), *due = PyLong_FromLong(1 + write_every);
    int done = 0;
    if (open_spans != NULL)
        PyList_SET_ITEM(open_spans, 0, Py_NewRef(wait));
    if (open_spans != NULL && none != NULL && told != NULL && next != NULL && due != NULL
        && PyDict_SetItem(part, key_number, before.sequence) == 0
        && add(part, key_spans, rows_of(self, wait, NULL)) == 0 && add(part, key_open, still_open(wait)) == 0
        && add(part, key_stamp, now(self)) == 0 && add(part, key_attributes, with_changes(self, changes)) == 0)
        line = line_of(self, kind_goes_on, part);
    if (line != NULL && take_lock(self)) {
        if (is_still(self, before) && SLOT(self, at_status) == name_pending && written(self, line)) {
            if (PyDict_Update(PyList_GET_ITEM(SLOT(self, at_row), ATTRIBUTES), changes) < 0)
                PyErr_Clear(); /* no memory: the line has them */
            put(self, at_status, Py_NewRef(name_accepted));
            put(self, at_bare, Py_NewRef(Py_False));
            put(self, at_sequence, Py_NewRef(next));
            put(self, at_write_at, Py_NewRef(due));
            put(self, at_open_written, Py_NewRef(told));
            put(self, at_changes, Py_NewRef(none));
            PyList_SetSlice(SLOT(self, at_spans), 0, before.spans, open_spans);
            done = 1;
        }
        give_lock(self);
    }
    Py_XDECREF(line), Py_XDECREF(due), Py_XDECREF(next), Py_XDECREF(told), Py_XDECREF(none), Py_XDECREF(open_spans);
    Py_DECREF(part), Py_DECREF(changes);
    forget(before);
    return done;
}

PyObject *
mark_accepted(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    PyObject *stats = Py_None, *reward = Py_None;
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names), known = 0;
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        if (name == word_stats)
            stats = arguments[count + i], known++;
        else if (name == word_reward)
            reward = arguments[count + i], known++;
    }
    if (count == 0 && known == named && accept(self, stats, reward))
        Py_RETURN_NONE;
    PyErr_Clear();
    return with_self(python_accepted, self, arguments, count, names);
}

/* `mark_consumed`, the short way; False, and nothing is changed, where it is not that. */
static int
consume(PyObject *self)
{
    if (!is_usual(self) || SLOT(self, at_status) != name_accepted || is_executing(self) || open_wait(self) == NULL
        || !is_at_rest(self) || has_steps(SLOT(self, at_runtime)) || !is_outside())
        return 0;
    Taken before = taken_from(self);
    PyObject *wait = before.wait, *live = dict_of(SLOT(self, at_runtime), word_live), *line = NULL;
    PyObject *part = PyDict_New(), *none = PyList_New(0), *next = PyNumber_Add(before.sequence, one), *end = now(self);
    int done = 0;
    if (live != NULL && part != NULL && none != NULL && next != NULL && end != NULL
        && PyDict_SetItem(part, key_number, before.sequence) == 0 && PyDict_SetItem(part, key_end, end) == 0
        && add(part, key_spans, rows_of(self, wait, end)) == 0
        && add(part, key_attributes, with_changes(self, said_by_end)) == 0)
        line = line_of(self, kind_ends, part);
    if (line != NULL && take_lock(self)) {
        if (is_still(self, before) && SLOT(self, at_status) == name_accepted && written(self, line)) {
            if (PyDict_Update(PyList_GET_ITEM(SLOT(self, at_row), ATTRIBUTES), said_by_end) < 0)
                PyErr_Clear(); /* no memory: the line has them */
            set_end(wait, end_of(wait, end));
            set_end(self, end);
            put(self, at_consumed, Py_NewRef(Py_True));
            put(self, at_sequence, Py_NewRef(next));
            if (PyDict_DelItem(live, SLOT(self, at_trace_hex)) < 0)
                PyErr_Clear();
            PyDict_Clear(SLOT(self, at_changes));
            put(self, at_wait, Py_NewRef(Py_None));
            put(self, at_spans, Py_NewRef(none));
            done = 1;
        }
        give_lock(self);
    }
    Py_XDECREF(line), Py_XDECREF(end), Py_XDECREF(next), Py_XDECREF(none), Py_XDECREF(part), Py_XDECREF(live);
    forget(before);
    return done;
}

PyObject *
mark_consumed(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (consume(self))
        Py_RETURN_NONE;
    PyErr_Clear();
    return PyObject_CallOneArg(python_consumed, self);
}
