/* A session begins: `Session.__init__`, and its first line. */

#include "session.h"

/* A session's first line, a new reference; else NULL, and maybe an exception set. */
static PyObject *
first_line(PyObject *self, PyObject *common, PyObject *wait)
{
    PyObject *part = PyDict_New(), *line = NULL;
    if (part != NULL && PyDict_SetItem(part, key_number, zero) == 0
        && PyDict_SetItem(part, key_start, PyList_GET_ITEM(SLOT(self, at_row), START)) == 0
        && PyDict_SetItem(part, key_attributes, SLOT(self, at_changes)) == 0
        && PyDict_SetItem(part, key_common, common) == 0
        && (wait == NULL
            || (add(part, key_open, still_open(wait)) == 0 && add(part, key_stamp, now(self)) == 0)))
        line = line_of(self, kind_goes_on, part);
    Py_XDECREF(part);
    return line;
}

/* `_write_first`, the short way: 1; 0, and nothing is changed, where it is not that; -1 with an exception. */
static int
write_first(PyObject *self, PyObject *common)
{
    PyObject *wait = SLOT(self, at_wait) == Py_None ? NULL : Py_NewRef(SLOT(self, at_wait));
    PyObject *line = first_line(self, common, wait);
    PyObject *told = wait == NULL ? Py_NewRef(no_arguments) : as_written(wait), *none = PyDict_New();
    PyObject *due = PyLong_FromLong(write_every + (wait != NULL));
    int done = 0;
    if (line != NULL && told != NULL && none != NULL && due != NULL && take_lock(self)) {
        put(self, at_sequence, Py_NewRef(one));
        put(self, at_write_at, Py_NewRef(due));
        put(self, at_open_written, Py_NewRef(told));
        put(self, at_changes, Py_NewRef(none));
        done = written(self, line) ? 1 : appended(self, line);
        give_lock(self);
    }
    Py_XDECREF(line), Py_XDECREF(told), Py_XDECREF(none), Py_XDECREF(due), Py_XDECREF(wait);
    return done;
}

/* The root's own attributes, a new reference. */
static PyObject *
own_attributes(PyObject *runtime, PyObject *given)
{
    PyObject *numbers = PyObject_GetAttr(runtime, word_request_ids), *own = NULL;
    if (numbers != NULL && PyIter_Check(numbers) && (own = PyDict_New()) != NULL
        && (add(own, name_request_id, PyIter_Next(numbers)) < 0 || PyDict_Update(own, given) < 0))
        Py_CLEAR(own);
    Py_XDECREF(numbers);
    return own;
}

/* `Session.__init__` with light spans, no name of its own and no step around it: 1; 0, and nothing is changed, where it is
   not that; -1 with an exception. */
static int
begin_session(PyObject *self, PyObject *runtime, PyObject *given, PyObject *block)
{
    if (!PyBool_Check(block) || !PyDict_CheckExact(given) || !are_plain(submission, given) || has_steps(runtime))
        return 0;
    PyObject *sampler = PyObject_GetAttr(runtime, word_sampler), *live = dict_of(runtime, word_live);
    PyObject *lock = PyObject_GetAttr(runtime, word_lock), *common = PyObject_GetAttr(runtime, word_common_json);
    PyObject *make_id = PyDict_GetItemWithError(names_of_ids, word_trace_hex), *trace_hex = NULL, *own = NULL;
    PyObject *time_ns = PyDict_GetItemWithError(names_of_clock, word_time_ns);
    PyObject *clock = PyDict_GetItemWithError(names_of_clock, word_monotonic_ns), *start = NULL, *stamp = NULL;
    PyObject *offset = NULL, *row = NULL, *indices = NULL, *spans = NULL, *changes = NULL, *wait = NULL;
    int done = 0;
    if (sampler == Py_None && live != NULL && lock != NULL && common != NULL && make_id != NULL && time_ns != NULL
        && clock != NULL && (start = PyObject_CallNoArgs(time_ns)) != NULL
        && (stamp = PyObject_CallNoArgs(clock)) != NULL && (offset = PyNumber_Subtract(start, stamp)) != NULL
        && (indices = uncollected(PyObject_CallOneArg(counting, one))) != NULL && (spans = PyList_New(0)) != NULL) {
        trace_hex = PyObject_CallNoArgs(make_id);
        done = trace_hex == NULL ? -1 : 0; /* a signal handler's, maybe */
    }
    if (trace_hex != NULL && PyBytes_CheckExact(trace_hex) && (own = own_attributes(runtime, given)) != NULL
        && (changes = Py_NewRef(own)) != NULL
        && (row = new_row(Py_NewRef(zero), Py_None, name_root, start, Py_NewRef(own))) != NULL) {
        put(self, at_runtime, Py_NewRef(runtime)), put(self, at_lock, Py_NewRef(lock));
        put(self, at_parent, Py_NewRef(Py_None)), put(self, at_mirror, Py_NewRef(Py_None));
        put(self, at_span_context, Py_NewRef(Py_None)), put(self, at_tracer, Py_NewRef(Py_None));
        put(self, at_sampled, Py_NewRef(Py_True)), put(self, at_spans, Py_NewRef(spans));
        put(self, at_changes, Py_NewRef(changes)), put(self, at_links, Py_NewRef(no_arguments));
        put(self, at_kept, Py_NewRef(Py_None)), put(self, at_indices, Py_NewRef(indices));
        put(self, at_sequence, Py_NewRef(zero)), put(self, at_write_at, PyLong_FromLong(write_every));
        put(self, at_writing, Py_NewRef(Py_False)), put(self, at_end_wanted, Py_NewRef(Py_None));
        put(self, at_open_written, Py_NewRef(no_arguments)), put(self, at_offset, Py_NewRef(offset));
        put(self, at_row, Py_NewRef(row)), put(self, at_trace_hex, Py_NewRef(trace_hex));
        put(self, at_status, Py_NewRef(name_pending)), put(self, at_wait, Py_NewRef(Py_None));
        put(self, at_block, Py_NewRef(block)), put(self, at_counters, Py_NewRef(Py_None));
        put(self, at_ends_with, Py_NewRef(Py_None)), put(self, at_executing, Py_NewRef(no_arguments));
        put(self, at_consumed, Py_NewRef(Py_None)), put(self, at_session_id, Py_NewRef(Py_None));
        put(self, at_bare, Py_NewRef(block));
        uncollected(self), uncollected(spans);
        if (block == Py_False && (wait = new_wait(self, name_queue_wait, start)) != NULL
            && PyList_Append(spans, wait) == 0)
            put(self, at_wait, Py_NewRef(wait));
        if ((block == Py_True || wait != NULL) && PyDict_SetItem(live, trace_hex, self) == 0) {
            done = write_first(self, common);
            if (!done) {
                PyErr_Clear();
                PyObject *locked = PyObject_CallMethodNoArgs(lock, word_acquire), *python = NULL;
                if (locked != NULL) {
                    python = PyObject_CallMethodNoArgs(self, word_write_first);
                    give_lock(self);
                }
                done = python == NULL ? -1 : 1;
                Py_XDECREF(locked), Py_XDECREF(python);
            }
        }
    }
    Py_XDECREF(sampler), Py_XDECREF(live), Py_XDECREF(lock), Py_XDECREF(common), Py_XDECREF(trace_hex), Py_XDECREF(own);
    Py_XDECREF(start), Py_XDECREF(stamp), Py_XDECREF(offset), Py_XDECREF(row), Py_XDECREF(indices), Py_XDECREF(spans);
    Py_XDECREF(changes), Py_XDECREF(wait);
    return done;
}

PyObject *
session_init(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    int done = 0;
    if (names == NULL && count == 5 && arguments[3] == Py_None && arguments[4] == Py_None)
        done = begin_session(self, arguments[0], arguments[1], arguments[2]);
    if (done)
        return done < 0 ? NULL : Py_NewRef(Py_None);
    PyErr_Clear();
    return with_self(python_session, self, arguments, count, names);
}
