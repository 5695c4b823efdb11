/* The ways that nearly every phase goes, in C: what Python does in `phases`, `recorders`, `plain` and `lines`, step by
   step, for the cases in which nothing special is asked for.

   `native` puts these functions in the places of Python's and hands in what they work with. Everything that is not the
   common case goes to the Python function whose place was taken, before anything is changed: there the whole of it is
   written, and where there is no C compiler it is all there is. Classes stay Python's; their slots are found by name. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <structmember.h>

/* Where things stand in a span's row, see `lines`. */
enum { REF, PARENT, NAME, KIND, START, END, ATTRIBUTES, STATUS, MESSAGE, ROW };

/* What `install` was given. */
static PyTypeObject *type_phase, *type_span, *type_trace, *type_session, *type_execution, *type_context;
static PyObject *variable, *span_key, *phase_key;             /* of the OpenTelemetry context */
static PyObject *names_of_switch, *names_of_clock;            /* both are modules' own dicts: what is in them may change */
static PyObject *python_enter, *python_exit, *python_describe; /* what stood here before */
static PyObject *python_are_plain, *python_send, *known_names, *dumps, *crc32;
static PyObject *python_session, *python_enqueued, *python_execution, *python_end_span, *python_accepted, *python_consumed;
static PyObject *python_scope_enter, *python_scope_exit, *python_add_span, *python_current, *python_make_execution;
static PyObject *names_of_ids, *names_on_the_wire, *submission, *stats_names, *counting, *internal, *kind_goes_on, *kind_ends;
static long write_every, most;

static PyObject *word_runtime, *word_monotonic_ns, *word_end_span, *word_interrupted, *no_text, *no_arguments, *zero, *one;
static PyObject *word_append, *word_attribute_max_bytes, *word_journal, *word_settings;
static PyObject *word_abandoned, *word_acquire, *word_common_json, *word_live, *word_lock, *word_release, *word_request_ids;
static PyObject *word_reward, *word_sampler, *word_stats, *word_steps, *word_time_ns, *word_trace_hex, *word_write;
static PyObject *word_write_first;
static PyObject *key_attributes, *key_common, *key_end, *key_number, *key_open, *key_spans, *key_stamp, *key_start;

/* On the wire. */
static PyObject *name_accepted, *name_consumed, *name_execution, *name_pending, *name_post_wait, *name_queue_wait;
static PyObject *name_request_id, *name_reward_score, *name_root, *name_runner_wait, *name_status;
static PyObject *said_by_end; /* what a session's end adds */

/* Slots of the classes, as offsets into their objects. */
static Py_ssize_t at_row, at_parent, at_owner, at_mirror, at_span_context; /* of a span */
static Py_ssize_t at_said, at_attributes, at_entered;                      /* of a phase */
static Py_ssize_t at_bare, at_indices, at_offset, at_runtime, at_sequence, at_spans, at_trace_hex; /* of a trace */
static Py_ssize_t at_changes, at_end_wanted, at_kept, at_links, at_lock, at_open_written, at_sampled, at_tracer, at_write_at,
    at_writing;
static Py_ssize_t at_block, at_consumed, at_counters, at_ends_with, at_executing, at_session_id, at_status, at_wait;
/* of a session */
static Py_ssize_t at_its_session, at_its_name, at_its_attributes, at_its_entry; /* of what `session.execution()` gives */

#define SLOT(object, at) (*(PyObject **)((char *)(object) + (at)))

/* Put a new reference into a slot. What stood there is let go last: that may run any code. */
static void
put(PyObject *object, Py_ssize_t at, PyObject *value)
{
    PyObject *before = SLOT(object, at);
    SLOT(object, at) = value;
    Py_XDECREF(before);
}

/* `clock.monotonic_ns() + owner.offset`, a new reference. */
static PyObject *
now(PyObject *trace)
{
    PyObject *clock = PyDict_GetItemWithError(names_of_clock, word_monotonic_ns);
    if (clock == NULL || SLOT(trace, at_offset) == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetNone(PyExc_AttributeError);
        return NULL;
    }
    Py_INCREF(clock);
    PyObject *stamp = PyObject_CallNoArgs(clock);
    Py_DECREF(clock);
    if (stamp == NULL)
        return NULL;
    PyObject *epoch = PyNumber_Add(stamp, SLOT(trace, at_offset));
    Py_DECREF(stamp);
    return epoch;
}

/* Call Python's function as a method of `self`. */
static PyObject *
with_self(PyObject *python, PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    PyObject *bound = PyMethod_New(python, self);
    PyObject *result = bound == NULL ? NULL : PyObject_Vectorcall(bound, arguments, (size_t)count, names);
    Py_XDECREF(bound);
    return result;
}

/* The row of a span that is one and has not ended, borrowed; else NULL, without an exception. */
static PyObject *
open_row(PyObject *span)
{
    PyObject *row = SLOT(span, at_row);
    int open = row != NULL && PyList_CheckExact(row) && PyList_GET_SIZE(row) == ROW
               && PyList_GET_ITEM(row, END) == Py_None;
    return open ? row : NULL;
}

/* The trace of a span, borrowed, where it is `bare`; else NULL, without an exception. */
static PyObject *
bare_trace(PyObject *span)
{
    PyObject *trace = PyObject_TypeCheck(span, type_trace) ? span : SLOT(span, at_owner);
    int bare = trace != NULL && PyObject_TypeCheck(trace, type_trace) && SLOT(trace, at_bare) == Py_True;
    return bare ? trace : NULL;
}

/* `plain.are_plain`. False also where only Python can tell: types and names are compared here without their methods. */
static int
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

static PyObject *
plain(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count == 2 && PyDict_CheckExact(arguments[0]) && PyDict_CheckExact(arguments[1])
        && are_plain(arguments[0], arguments[1]))
        Py_RETURN_TRUE;
    return PyObject_Vectorcall(python_are_plain, arguments, (size_t)count, NULL);
}

/* The row of a phase that begins, as `TraceLog.start_span` makes it, a new reference. */
static PyObject *
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
    return row;

failed:
    Py_XDECREF(ref);
    Py_XDECREF(start);
    Py_XDECREF(attributes);
    return NULL;
}

/* `here` with this span current in it, a new reference. A Context is a dict that Python code cannot change. */
static PyObject *
inside(PyObject *here, PyObject *span)
{
    PyObject *context = type_context->tp_new(type_context, no_arguments, NULL);
    if (context == NULL || PyDict_Update(context, here) < 0 || PyDict_SetItem(context, span_key, span) < 0
        || PyDict_SetItem(context, phase_key, span) < 0)
        Py_CLEAR(context);
    return context;
}

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
static PyObject *
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

static PyObject *
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

/* Leave a scope that was entered once, in order: `end` is the short way to end its span. */
static PyObject *
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

/* Whether it is the one entry that there is, and left without an exception. */
static int
is_in_order(PyObject *entered, PyObject *const *arguments, Py_ssize_t count)
{
    return count == 3 && arguments[1] == Py_None && entered != NULL && PyTuple_CheckExact(entered)
           && PyTuple_GET_SIZE(entered) == 3 && PyTuple_GET_ITEM(entered, 2) == Py_None;
}

static PyObject *
phase_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *entered = SLOT(self, at_entered);
    if (is_in_order(entered, arguments, count) && PyTuple_GET_ITEM(entered, 0) == self)
        return leave_scope(self, entered, at_entered, arguments[0], end_phase);
    return with_self(python_exit, self, arguments, count, NULL);
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

static PyObject *
describe(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count == 3 && describe_here(arguments[0], arguments[1], arguments[2]))
        Py_RETURN_NONE;
    PyErr_Clear();
    return PyObject_Vectorcall(python_describe, arguments, (size_t)count, NULL);
}

/* `lines.frame`, a new reference. */
static PyObject *
framed(PyObject *kind, PyObject *trace, PyObject *payload)
{
    Py_ssize_t of_kind = PyBytes_GET_SIZE(kind), of_trace = PyBytes_GET_SIZE(trace),
               of_payload = PyBytes_GET_SIZE(payload), size = of_kind + of_trace + 1 + of_payload;
    PyObject *body = PyBytes_FromStringAndSize(NULL, size), *line = NULL;
    if (body == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(body);
    memcpy(to, PyBytes_AS_STRING(kind), of_kind);
    memcpy(to + of_kind, PyBytes_AS_STRING(trace), of_trace);
    to[of_kind + of_trace] = ' ';
    memcpy(to + of_kind + of_trace + 1, PyBytes_AS_STRING(payload), of_payload);

    PyObject *sum = PyObject_CallOneArg(crc32, body);
    unsigned long bits = sum == NULL ? 0 : PyLong_AsUnsignedLong(sum);
    Py_XDECREF(sum);
    if (!PyErr_Occurred())
        line = PyBytes_FromStringAndSize(NULL, 8 + 1 + size + 1);
    if (line != NULL) {
        to = PyBytes_AS_STRING(line);
        for (int digit = 7; digit >= 0; digit--, bits >>= 4)
            to[digit] = "0123456789abcdef"[bits & 15];
        to[8] = ' ';
        memcpy(to + 9, PyBytes_AS_STRING(body), size);
        to[9 + size] = '\n';
    }
    Py_DECREF(body);
    return line;
}

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
static PyObject *
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

static PyObject *
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

/* A session's marks, as `sessions` and `verdicts` make them: what is usual is a session with waits and light spans that
   goes from one mark to the next. Everything is changed after the last step that may fail or let other code run, while
   nobody else holds the lock, for which nothing here waits. */

/* Put a new reference, or an error, into a dict under a name. */
static int
add(PyObject *dict, PyObject *name, PyObject *value)
{
    int failed = value == NULL || PyDict_SetItem(dict, name, value) < 0;
    Py_XDECREF(value);
    return failed ? -1 : 0;
}

/* A row, a new reference; `ref` and `attributes` are given away. */
static PyObject *
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
    return row;
}

/* A span of this row below the root, a new reference; the row is given away. */
static PyObject *
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
    return span;
}

static PyObject *
new_wait(PyObject *self, PyObject *name, PyObject *start)
{
    PyObject *root = PyList_GET_ITEM(SLOT(self, at_row), REF), *ref = PyIter_Next(SLOT(self, at_indices));
    return new_span(self, new_row(ref, root, name, start, PyDict_New()));
}

/* Whether it is this process's, open, light, with waits, not at a line, and no line is due for so many spans. */
static int
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

static int
is_executing(PyObject *self)
{
    return PyTuple_GET_SIZE(SLOT(self, at_executing)) > 0;
}

/* The wait that is open, borrowed, where there is one. */
static PyObject *
open_wait(PyObject *self)
{
    PyObject *wait = SLOT(self, at_wait);
    return wait != NULL && Py_TYPE(wait) == type_span && open_row(wait) != NULL ? wait : NULL;
}

static int
waits_for(PyObject *self, PyObject *name)
{
    PyObject *wait = open_wait(self);
    return wait != NULL && PyList_GET_ITEM(SLOT(wait, at_row), NAME) == name;
}

/* The end of a wait: not before its start. Borrowed. */
static PyObject *
end_of(PyObject *wait, PyObject *end)
{
    PyObject *start = PyList_GET_ITEM(SLOT(wait, at_row), START);
    return PyObject_RichCompareBool(end, start, Py_LT) == 1 ? start : end;
}

static void
set_end(PyObject *span, PyObject *end)
{
    PyList_SetItem(SLOT(span, at_row), END, Py_NewRef(end));
}

/* Whether the lock was free, and is taken. */
static int
take_lock(PyObject *self)
{
    PyObject *taken = PyObject_CallMethodOneArg(SLOT(self, at_lock), word_acquire, Py_False);
    Py_XDECREF(taken);
    return taken == Py_True;
}

static void
give_lock(PyObject *self)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    Py_XDECREF(PyObject_CallMethodNoArgs(SLOT(self, at_lock), word_release));
    PyErr_Restore(type, error, traceback);
}

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

static PyObject *
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

static PyObject *
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

static PyObject *
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
static PyObject *
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

static PyObject *
execution_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *span = enter_execution(self);
    if (span != NULL)
        return span;
    PyErr_Clear();
    return PyObject_CallOneArg(python_scope_enter, self);
}

static PyObject *
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

static PyObject *
session_add_span(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    if (names == NULL && (count == 3 || (count == 4 && arguments[3] == Py_None))
        && add_here(self, arguments[0], arguments[1], arguments[2]))
        Py_RETURN_NONE;
    PyErr_Clear();
    return with_self(python_add_span, self, arguments, count, names);
}

/* Whether a line may be written with nothing in it but spans and attributes. */
static int
is_at_rest(PyObject *self)
{
    PyObject *row = open_row(self), *links = SLOT(self, at_links), *changes = SLOT(self, at_changes);
    return row != NULL && PyList_GET_ITEM(row, STATUS) == zero && links != NULL && PyTuple_CheckExact(links)
           && !PyTuple_GET_SIZE(links) && changes != NULL && PyDict_CheckExact(changes)
           && PyDict_CheckExact(PyList_GET_ITEM(row, ATTRIBUTES)) && PyLong_CheckExact(SLOT(self, at_sequence));
}

/* The rows of all spans, which must have ended but for the wait: a new list, with the wait as it ends, where it does. */
static PyObject *
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
static int
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
static int
appended(PyObject *self, PyObject *line)
{
    PyErr_Clear();
    PyObject *journal = PyObject_GetAttr(SLOT(self, at_runtime), word_journal), *done = NULL;
    if (journal != NULL)
        done = PyObject_CallMethodOneArg(journal, word_append, line);
    Py_XDECREF(journal), Py_XDECREF(done);
    return done == NULL ? -1 : 1;
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

/* The attributes that a line has: those that wait for one, and new ones. A new reference. */
static PyObject *
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
static PyObject *
still_open(PyObject *wait)
{
    PyObject *row = SLOT(wait, at_row), *open = PyList_GetSlice(row, 0, END), *all = NULL;
    if (open != NULL && PyList_Append(open, PyList_GET_ITEM(row, ATTRIBUTES)) == 0 && (all = PyList_New(1)) != NULL)
        PyList_SET_ITEM(all, 0, Py_NewRef(open));
    Py_XDECREF(open);
    return all;
}

/* [(ref, number of attributes)] of the wait, see `TraceLog._new`. */
static PyObject *
as_written(PyObject *wait)
{
    PyObject *row = SLOT(wait, at_row);
    return Py_BuildValue("[(On)]", PyList_GET_ITEM(row, REF), PyDict_Size(PyList_GET_ITEM(row, ATTRIBUTES)));
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

static PyObject *
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

static PyObject *
current(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyObject *span = current_span();
    if (span != NULL)
        return span;
    PyErr_Clear();
    return PyObject_CallNoArgs(python_current);
}

/* Whether nothing of a session is current here. */
static int
is_outside(void)
{
    PyObject *here = NULL;
    if (PyContextVar_Get(variable, NULL, &here) < 0 || here == NULL)
        return 0;
    int outside = Py_TYPE(here) == type_context && !PyDict_Contains(here, phase_key);
    Py_DECREF(here);
    return outside;
}

/* An attribute of the runtime that must be a dict: a new reference. */
static PyObject *
dict_of(PyObject *runtime, PyObject *name)
{
    PyObject *found = PyObject_GetAttr(runtime, name);
    if (found != NULL && !PyDict_CheckExact(found))
        Py_CLEAR(found);
    return found;
}

static int
has_steps(PyObject *runtime)
{
    PyObject *steps = dict_of(runtime, word_steps);
    int some = steps == NULL || PyDict_GET_SIZE(steps);
    Py_XDECREF(steps);
    return some;
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

static PyObject *
mark_consumed(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (consume(self))
        Py_RETURN_NONE;
    PyErr_Clear();
    return PyObject_CallOneArg(python_consumed, self);
}

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
    PyObject *offset = NULL, *row = NULL, *indices = NULL, *spans = NULL, *changes = NULL, *counters = NULL, *wait = NULL;
    int done = 0;
    if (sampler == Py_None && live != NULL && lock != NULL && common != NULL && make_id != NULL && time_ns != NULL
        && clock != NULL && (start = PyObject_CallNoArgs(time_ns)) != NULL
        && (stamp = PyObject_CallNoArgs(clock)) != NULL && (offset = PyNumber_Subtract(start, stamp)) != NULL
        && (indices = PyObject_CallOneArg(counting, one)) != NULL && (spans = PyList_New(0)) != NULL
        && (counters = PyDict_New()) != NULL) {
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
        put(self, at_block, Py_NewRef(block)), put(self, at_counters, Py_NewRef(counters));
        put(self, at_ends_with, Py_NewRef(Py_None)), put(self, at_executing, Py_NewRef(no_arguments));
        put(self, at_consumed, Py_NewRef(Py_None)), put(self, at_session_id, Py_NewRef(Py_None));
        put(self, at_bare, Py_NewRef(block));
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
    Py_XDECREF(changes), Py_XDECREF(counters), Py_XDECREF(wait);
    return done;
}

static PyObject *
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

/* Setting up. */

static int
find_slot(PyTypeObject *type, const char *name, Py_ssize_t *at)
{
    PyObject *slot = PyObject_GetAttrString((PyObject *)type, name);
    if (slot == NULL)
        return -1;
    PyMemberDef *member = Py_TYPE(slot) == &PyMemberDescr_Type ? ((PyMemberDescrObject *)slot)->d_member : NULL;
    Py_DECREF(slot);
    if (member == NULL || member->type != T_OBJECT_EX) {
        PyErr_Format(PyExc_TypeError, "%s.%s is no slot", type->tp_name, name);
        return -1;
    }
    *at = member->offset;
    return 0;
}

static PyMethodDef of_phase[] = {
    {"__enter__", phase_enter, METH_NOARGS, "See `Scope`."},
    {"__exit__", (PyCFunction)(void (*)(void))phase_exit, METH_FASTCALL, "See `Scope`."},
};
static PyMethodDef of_session[] = {
    {"__init__", (PyCFunction)(void (*)(void))session_init, METH_FASTCALL | METH_KEYWORDS, "See `Session`."},
    {"mark_enqueued", mark_enqueued, METH_NOARGS,
     "mark_enqueued($self, /)\n--\n\nHanded to whoever runs it: `queue_wait` ends, `runner_wait` begins. Again before a "
     "retry."},
    {"start_execution", start_execution, METH_O, "See `Session`."},
    {"execution", (PyCFunction)(void (*)(void))session_execution, METH_FASTCALL | METH_KEYWORDS,
     "execution($self, /, **attributes)\n--\n\nThe workflow runs: a context manager, sync or async. Ends the wait before "
     "it."},
    {"end_span", (PyCFunction)(void (*)(void))session_end_span, METH_FASTCALL | METH_KEYWORDS, "See `Session`."},
    {"add_span", (PyCFunction)(void (*)(void))session_add_span, METH_FASTCALL | METH_KEYWORDS, "See `TraceLog`."},
    {"mark_accepted", (PyCFunction)(void (*)(void))mark_accepted, METH_FASTCALL | METH_KEYWORDS,
     "mark_accepted($self, /, *, stats=None, reward=None)\n--\n\nThe verdict: good. The session goes on until "
     "`mark_consumed`, or `mark_dropped`."},
    {"mark_consumed", mark_consumed, METH_NOARGS,
     "mark_consumed($self, /)\n--\n\nThe trainer has it. Ends the session."},
};
static PyMethodDef of_execution[] = {
    {"__enter__", execution_enter, METH_NOARGS, "See `Scope`."},
    {"__exit__", (PyCFunction)(void (*)(void))execution_exit, METH_FASTCALL, "See `Scope`."},
};
static PyMethodDef of_trace = {"_send", (PyCFunction)(void (*)(void))trace_send, METH_FASTCALL, NULL};
static PyMethodDef free_standing[] = {
    {"_describe", (PyCFunction)(void (*)(void))describe, METH_FASTCALL, NULL},
    {"are_plain", (PyCFunction)(void (*)(void))plain, METH_FASTCALL, NULL},
    {"current", current, METH_NOARGS, NULL},
};

static char *names[] = {"phase",     "span",     "trace",     "session",  "context",  "variable",   "span_key",
                        "phase_key", "switch",   "clock",     "ids",      "semconv",  "known",      "submission",
                        "stats",     "counting", "internal",  "goes_on",  "ends",     "enter",      "exit",
                        "send",      "describe", "are_plain", "begin",    "enqueued", "execution",  "end_span",
                        "accepted",  "consumed", "scope",     "scope_enter", "scope_exit", "add_span",
                        "current",   "make_execution", "dumps",     "crc32",    "write_every", "most",    NULL};

PyDoc_STRVAR(install_doc,
             "Take what the functions here work with, Python's functions among it; gives those that stand for them, by\n"
             "the same names. Once for a process.");

static PyObject *
install(PyObject *Py_UNUSED(module), PyObject *arguments, PyObject *named)
{
    if (!PyArg_ParseTupleAndKeywords(
            arguments, named, "$O!O!O!O!O!O!OOO!O!O!O!O!O!O!OOOOOOOOOOOOOOOO!OOOOOOOll", names, &PyType_Type, &type_phase,
            &PyType_Type, &type_span, &PyType_Type, &type_trace, &PyType_Type, &type_session, &PyType_Type, &type_context,
            &PyContextVar_Type, &variable, &span_key, &phase_key, &PyDict_Type, &names_of_switch, &PyDict_Type,
            &names_of_clock, &PyDict_Type, &names_of_ids, &PyDict_Type, &names_on_the_wire, &PyDict_Type, &known_names,
            &PyDict_Type, &submission, &PyTuple_Type, &stats_names, &counting, &internal, &kind_goes_on, &kind_ends,
            &python_enter, &python_exit, &python_send, &python_describe, &python_are_plain, &python_session,
            &python_enqueued, &python_execution, &python_end_span, &python_accepted, &python_consumed, &PyType_Type,
            &type_execution, &python_scope_enter, &python_scope_exit, &python_add_span, &python_current,
            &python_make_execution, &dumps, &crc32, &write_every, &most))
        return NULL;
    if (type_context->tp_new != PyDict_Type.tp_new || type_context->tp_init != PyDict_Type.tp_init) {
        PyErr_SetString(PyExc_TypeError, "an OpenTelemetry context is expected to be made like a dict");
        return NULL;
    }
    struct {
        PyTypeObject *type;
        const char *name;
        Py_ssize_t *at;
    } slots[] = {
        {type_span, "row", &at_row},
        {type_span, "parent", &at_parent},
        {type_span, "owner", &at_owner},
        {type_span, "mirror", &at_mirror},
        {type_span, "_span_context", &at_span_context},
        {type_phase, "_said", &at_said},
        {type_phase, "_attributes", &at_attributes},
        {type_phase, "_entered", &at_entered},
        {type_trace, "bare", &at_bare},
        {type_trace, "_changes", &at_changes},
        {type_trace, "_end_wanted", &at_end_wanted},
        {type_trace, "_indices", &at_indices},
        {type_trace, "_kept", &at_kept},
        {type_trace, "_links", &at_links},
        {type_trace, "lock", &at_lock},
        {type_trace, "offset", &at_offset},
        {type_trace, "_open_written", &at_open_written},
        {type_trace, "runtime", &at_runtime},
        {type_trace, "sampled", &at_sampled},
        {type_trace, "_sequence", &at_sequence},
        {type_trace, "spans", &at_spans},
        {type_trace, "trace_hex", &at_trace_hex},
        {type_trace, "tracer", &at_tracer},
        {type_trace, "_write_at", &at_write_at},
        {type_trace, "_writing", &at_writing},
        {type_session, "_block", &at_block},
        {type_session, "_consumed", &at_consumed},
        {type_session, "_counters", &at_counters},
        {type_session, "_ends_with", &at_ends_with},
        {type_session, "_executing", &at_executing},
        {type_session, "_session_id", &at_session_id},
        {type_session, "status", &at_status},
        {type_session, "_wait", &at_wait},
        {type_execution, "_session", &at_its_session},
        {type_execution, "_name", &at_its_name},
        {type_execution, "_attributes", &at_its_attributes},
        {type_execution, "_entered", &at_its_entry},
    };
    for (size_t i = 0; i < sizeof(slots) / sizeof(*slots); i++)
        if (find_slot(slots[i].type, slots[i].name, slots[i].at) < 0)
            return NULL;
    struct {
        PyObject **name;
        const char *word;
    } on_the_wire[] = {
        {&name_accepted, "ACCEPTED"},         {&name_consumed, "CONSUMED"},     {&name_execution, "EXECUTION"},
        {&name_pending, "PENDING"},           {&name_post_wait, "POST_WAIT"},   {&name_queue_wait, "QUEUE_WAIT"},
        {&name_request_id, "REQUEST_ID"},     {&name_reward_score, "REWARD_SCORE"}, {&name_root, "ROOT_NAME"},
        {&name_runner_wait, "RUNNER_WAIT"},   {&name_status, "STATUS"},
    };
    for (size_t i = 0; i < sizeof(on_the_wire) / sizeof(*on_the_wire); i++) {
        *on_the_wire[i].name = PyDict_GetItemString(names_on_the_wire, on_the_wire[i].word);
        if (*on_the_wire[i].name == NULL) {
            PyErr_Format(PyExc_AttributeError, "there is no semconv.%s", on_the_wire[i].word);
            return NULL;
        }
        Py_INCREF(*on_the_wire[i].name);
    }
    said_by_end = Py_BuildValue("{OOOO}", name_status, name_accepted, name_consumed, Py_True);
    if (said_by_end == NULL)
        return NULL;
    /* For as long as the process lives: what was put in their places may be called at any time. */
    PyObject *kept[] = {(PyObject *)type_phase, (PyObject *)type_span, (PyObject *)type_trace, (PyObject *)type_session,
                        (PyObject *)type_context, variable, span_key, phase_key, names_of_switch, names_of_clock,
                        names_of_ids, known_names, submission, stats_names, counting, internal, kind_goes_on, kind_ends,
                        python_enter, python_exit, python_send, python_describe, python_are_plain, python_session,
                        python_enqueued, python_execution, python_end_span, python_accepted, python_consumed, python_scope_enter,
                        python_scope_exit, python_add_span, python_current, python_make_execution, (PyObject *)type_execution, dumps, crc32};
    for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++)
        Py_INCREF(kept[i]);
    struct {
        const char *place;
        PyTypeObject *type;
        PyMethodDef *method;
    } here[] = {
        {"enter", type_phase, &of_phase[0]},
        {"exit", type_phase, &of_phase[1]},
        {"send", type_trace, &of_trace},
        {"begin", type_session, &of_session[0]},
        {"enqueued", type_session, &of_session[1]},
        {"execution", type_session, &of_session[2]},
        {"make_execution", type_session, &of_session[3]},
        {"end_span", type_session, &of_session[4]},
        {"add_span", type_session, &of_session[5]},
        {"accepted", type_session, &of_session[6]},
        {"consumed", type_session, &of_session[7]},
        {"scope_enter", type_execution, &of_execution[0]},
        {"scope_exit", type_execution, &of_execution[1]},
        {"describe", NULL, &free_standing[0]},
        {"are_plain", NULL, &free_standing[1]},
        {"current", NULL, &free_standing[2]},
    };
    PyObject *made = PyDict_New();
    for (size_t i = 0; made != NULL && i < sizeof(here) / sizeof(*here); i++) {
        PyTypeObject *type = here[i].type;
        PyObject *function = type == NULL ? PyCFunction_New(here[i].method, NULL) : PyDescr_NewMethod(type, here[i].method);
        if (function == NULL || PyDict_SetItemString(made, here[i].place, function) < 0)
            Py_CLEAR(made);
        Py_XDECREF(function);
    }
    return made;
}

static PyObject *
make_phases(PyObject *Py_UNUSED(module), PyObject *natively)
{
    int asked = PyObject_IsTrue(natively);
    if (asked < 0)
        return NULL;
    type_phase->tp_vectorcall = asked ? phase_new : NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"install", (PyCFunction)(void (*)(void))install, METH_VARARGS | METH_KEYWORDS, install_doc},
    {"make_phases", make_phases, METH_O, "Whether `phase(...)` is done here. After `install`."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The ways that nearly every phase and line goes, in C.", -1, functions,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    struct {
        PyObject **word;
        const char *text;
    } words[] = {
        {&word_abandoned, "abandoned"},     {&word_acquire, "acquire"},
        {&word_append, "append"},           {&word_attribute_max_bytes, "attribute_max_bytes"},
        {&word_common_json, "common_json"}, {&word_end_span, "end_span"},
        {&word_interrupted, "_interrupted"}, {&word_journal, "journal"},
        {&word_live, "live"},               {&word_lock, "lock"},
        {&word_monotonic_ns, "monotonic_ns"}, {&word_release, "release"},
        {&word_request_ids, "request_ids"}, {&word_reward, "reward"},
        {&word_runtime, "_runtime"},        {&word_sampler, "sampler"},
        {&word_settings, "settings"},       {&word_stats, "stats"},
        {&word_steps, "steps"},             {&word_time_ns, "time_ns"},
        {&word_trace_hex, "trace_hex"},     {&word_write, "_write"},
        {&word_write_first, "_write_first"}, {&no_text, ""},
        {&key_attributes, "a"},             {&key_common, "c"},
        {&key_end, "e"},                    {&key_number, "n"},
        {&key_open, "o"},                   {&key_spans, "s"},
        {&key_stamp, "u"},                  {&key_start, "t"},
    };
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
        if ((*words[i].word = PyUnicode_InternFromString(words[i].text)) == NULL)
            return NULL;
    no_arguments = PyTuple_New(0);
    zero = PyLong_FromLong(0);
    one = PyLong_FromLong(1);
    PyObject *module = no_arguments == NULL || zero == NULL || one == NULL ? NULL : PyModule_Create(&definition);
    PyObject *needs = module == NULL ? NULL : PyList_New(0);
    for (char **name = names; needs != NULL && *name != NULL; name++) {
        PyObject *text = PyUnicode_FromString(*name);
        if (text == NULL || PyList_Append(needs, text) < 0)
            Py_CLEAR(needs);
        Py_XDECREF(text);
    }
    if (needs == NULL || PyModule_AddObject(module, "NEEDS", needs) < 0) {
        Py_XDECREF(needs), Py_XDECREF(module);
        return NULL;
    }
    return module;
}
