/* The ways that nearly every phase and session goes, in C: what Python does in the modules of the package, step by step,
   for the cases in which nothing special is asked for.

   `native.py` puts these functions in the places of Python's and hands in what they work with. Everything that is not the
   common case goes to the Python function whose place was taken, before anything is changed: there the whole of it is
   written, and where there is no C compiler it is all there is. Classes stay Python's; their slots are found by name.

   Here is what all files share: what they work with, small steps, and what each has for the others. */

#ifndef ROLLSPAN_NATIVE_H
#define ROLLSPAN_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#pragma GCC visibility push(hidden) /* among these files alone, which costs no more than in one file */

/* What follows is declared here, and is in `install.c`, which fills it in. */
#ifndef SHARED
#define SHARED extern
#endif

/* Where things stand in a span's row, see `lines`. */
enum { REF, PARENT, NAME, KIND, START, END, ATTRIBUTES, STATUS, MESSAGE, ROW };

/* What `install` was given. */
SHARED PyTypeObject *type_phase, *type_span, *type_trace, *type_session, *type_execution, *type_context;
SHARED PyObject *variable, *span_key, *phase_key;             /* of the OpenTelemetry context */
SHARED PyObject *names_of_switch, *names_of_clock;            /* both are modules' own dicts: what is in them may change */
SHARED PyObject *python_enter, *python_exit, *python_describe; /* what stood here before */
SHARED PyObject *python_are_plain, *python_send, *known_names, *dumps, *python_split, *python_fill;
SHARED PyObject *python_session, *python_enqueued, *python_execution, *python_end_span, *python_accepted, *python_consumed;
SHARED PyObject *python_scope_enter, *python_scope_exit, *python_add_span, *python_current, *python_make_execution;
SHARED PyObject *names_of_ids, *names_on_the_wire, *submission, *stats_names, *counting, *internal, *kind_goes_on, *kind_ends, *kind_passes;
SHARED long write_every, most;

SHARED PyObject *word_runtime, *word_monotonic_ns, *word_end_span, *word_interrupted, *no_text, *no_arguments, *zero, *one;
SHARED PyObject *word_append, *word_attribute_max_bytes, *word_journal, *word_settings;
SHARED PyObject *word_abandoned, *word_acquire, *word_common_json, *word_live, *word_lock, *word_release, *word_request_ids;
SHARED PyObject *word_reward, *word_sampler, *word_stats, *word_steps, *word_time_ns, *word_trace_hex, *word_write;
SHARED PyObject *word_write_first;
SHARED PyObject *key_attributes, *key_common, *key_end, *key_number, *key_open, *key_spans, *key_stamp, *key_start;

/* On the wire. */
SHARED PyObject *name_accepted, *name_consumed, *name_execution, *name_pending, *name_post_wait, *name_queue_wait;
SHARED PyObject *name_request_id, *name_reward_score, *name_root, *name_runner_wait, *name_status;
SHARED PyObject *said_by_end; /* what a session's end adds */

/* Slots of the classes, as offsets into their objects. */
SHARED Py_ssize_t at_row, at_parent, at_owner, at_mirror, at_span_context; /* of a span */
SHARED Py_ssize_t at_said, at_attributes, at_entered;                      /* of a phase */
SHARED Py_ssize_t at_bare, at_indices, at_offset, at_runtime, at_sequence, at_spans, at_trace_hex; /* of a trace */
SHARED Py_ssize_t at_changes, at_end_wanted, at_kept, at_links, at_lock, at_open_written, at_sampled, at_tracer, at_write_at,
    at_writing;
SHARED Py_ssize_t at_block, at_consumed, at_counters, at_ends_with, at_executing, at_session_id, at_status, at_wait;
/* of a session */
SHARED Py_ssize_t at_its_session, at_its_name, at_its_attributes, at_its_entry; /* of what `session.execution()` gives */

#define SLOT(object, at) (*(PyObject **)((char *)(object) + (at)))

/* Put a new reference into a slot. What stood there is let go last: that may run any code. */
static inline void
put(PyObject *object, Py_ssize_t at, PyObject *value)
{
    PyObject *before = SLOT(object, at);
    SLOT(object, at) = value;
    Py_XDECREF(before);
}

/* The same object, or NULL, of which the garbage collector knows nothing: to look at all of these, again and again, would
   cost more than to make them. Either it holds only what holds nothing else, or it is a session that has not ended, its
   spans and their list: the process holds these until their end, which lets the spans go (`tests/test_freed.py`). */
static inline PyObject *
uncollected(PyObject *object)
{
    if (object != NULL && PyObject_IS_GC(object))
        PyObject_GC_UnTrack(object);
    return object;
}

/* `clock.monotonic_ns() + owner.offset`, a new reference. */
static inline PyObject *
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
static inline PyObject *
with_self(PyObject *python, PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    PyObject *bound = PyMethod_New(python, self);
    PyObject *result = bound == NULL ? NULL : PyObject_Vectorcall(bound, arguments, (size_t)count, names);
    Py_XDECREF(bound);
    return result;
}

/* The row of a span that is one and has not ended, borrowed; else NULL, without an exception. */
static inline PyObject *
open_row(PyObject *span)
{
    PyObject *row = SLOT(span, at_row);
    int open = row != NULL && PyList_CheckExact(row) && PyList_GET_SIZE(row) == ROW
               && PyList_GET_ITEM(row, END) == Py_None;
    return open ? row : NULL;
}

/* The trace of a span, borrowed, where it is `bare`; else NULL, without an exception. */
static inline PyObject *
bare_trace(PyObject *span)
{
    PyObject *trace = PyObject_TypeCheck(span, type_trace) ? span : SLOT(span, at_owner);
    int bare = trace != NULL && PyObject_TypeCheck(trace, type_trace) && SLOT(trace, at_bare) == Py_True;
    return bare ? trace : NULL;
}

/* attributes.c */
int are_plain(PyObject *kinds, PyObject *given);
PyObject *plain(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *describe(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

/* spans.c */
PyObject *begin(PyObject *trace, PyObject *above, PyObject *said, PyObject *given);
PyObject *new_row(PyObject *ref, PyObject *parent, PyObject *name, PyObject *start, PyObject *attributes);
PyObject *new_span(PyObject *trace, PyObject *row);
PyObject *new_wait(PyObject *self, PyObject *name, PyObject *start);

/* scopes.c */
PyObject *inside(PyObject *here, PyObject *span);
int is_outside(void);
int is_in_order(PyObject *entered, PyObject *const *arguments, Py_ssize_t count);
PyObject *leave_scope(PyObject *self, PyObject *entered, Py_ssize_t at, PyObject *kind, int (*end)(PyObject *));
PyObject *current(PyObject *module, PyObject *ignored);

/* phases.c */
PyObject *phase_new(PyObject *type, PyObject *const *arguments, size_t flags, PyObject *names);
PyObject *phase_enter(PyObject *self, PyObject *ignored);
PyObject *phase_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count);

/* frames.c */
void prepare_sums(void);
PyObject *framed(PyObject *kind, PyObject *trace, PyObject *payload);
PyObject *split(PyObject *module, PyObject *chunk);

/* templates.c */
PyObject *fill_templates(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

/* lines.c */
PyObject *line_of(PyObject *self, PyObject *kind, PyObject *part);
PyObject *trace_send(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
int written(PyObject *self, PyObject *line);
int appended(PyObject *self, PyObject *line);
PyObject *rows_of(PyObject *self, PyObject *wait, PyObject *end);
PyObject *with_changes(PyObject *self, PyObject *changes);
PyObject *still_open(PyObject *wait);
PyObject *as_written(PyObject *wait);

/* submission.c, marks.c, verdicts.c */
PyObject *session_init(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names);
PyObject *mark_enqueued(PyObject *self, PyObject *ignored);
PyObject *start_execution(PyObject *self, PyObject *given);
PyObject *session_execution(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names);
PyObject *execution_enter(PyObject *self, PyObject *ignored);
PyObject *execution_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
PyObject *session_end_span(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names);
PyObject *session_add_span(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names);
PyObject *mark_accepted(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names);
PyObject *mark_consumed(PyObject *self, PyObject *ignored);

#pragma GCC visibility pop

#endif
