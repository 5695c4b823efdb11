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
static PyTypeObject *type_phase, *type_span, *type_trace, *type_context;
static PyObject *variable, *span_key, *phase_key;             /* of the OpenTelemetry context */
static PyObject *names_of_switch, *names_of_clock;            /* both are modules' own dicts: what is in them may change */
static PyObject *python_enter, *python_exit, *python_describe; /* what stood here before */
static PyObject *python_are_plain, *python_send, *known_names, *dumps, *crc32;
static long write_every, most;

static PyObject *word_runtime, *word_monotonic_ns, *word_end_span, *word_interrupted, *no_text, *no_arguments, *zero, *one;
static PyObject *word_append, *word_attribute_max_bytes, *word_journal, *word_settings;

/* Slots of the classes, as offsets into their objects. */
static Py_ssize_t at_row, at_parent, at_owner, at_mirror, at_span_context; /* of a span */
static Py_ssize_t at_said, at_attributes, at_entered;                      /* of a phase */
static Py_ssize_t at_bare, at_indices, at_offset, at_runtime, at_sequence, at_spans, at_trace_hex; /* of a trace */

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

static PyObject *
phase_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *entered = SLOT(self, at_entered);
    /* The one entry there is, left in order: */
    if (count != 3 || arguments[1] != Py_None || entered == NULL || !PyTuple_CheckExact(entered)
        || PyTuple_GET_SIZE(entered) != 3 || PyTuple_GET_ITEM(entered, 0) != self
        || PyTuple_GET_ITEM(entered, 2) != Py_None) {
        PyObject *all[] = {self, count > 0 ? arguments[0] : NULL, count > 1 ? arguments[1] : NULL,
                           count > 2 ? arguments[2] : NULL};
        return PyObject_Vectorcall(python_exit, all, (size_t)(count < 3 ? count : 3) + 1, NULL);
    }
    PyObject *token = Py_NewRef(PyTuple_GET_ITEM(entered, 1)), *result = NULL;
    put(self, at_entered, Py_NewRef(Py_None));
    int reset = PyContextVar_Reset(variable, token);
    if (reset < 0 && (PyErr_ExceptionMatches(PyExc_ValueError) || PyErr_ExceptionMatches(PyExc_RuntimeError))) {
        PyErr_Clear(); /* left in another context than it was entered in */
        reset = 0;
    }
    if (reset == 0) {
        PyObject *row = open_row(self);
        if (row != NULL) {
            Py_INCREF(row);
            if (leave(self, row))
                result = Py_NewRef(Py_None);
            Py_DECREF(row);
        }
        if (result == NULL)
            result = PyObject_CallMethodObjArgs(SLOT(self, at_owner), word_end_span, self, NULL);
    }
    if (result == NULL) { /* an error of ours, or a signal handler's: Python knows what becomes of it */
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL)
            PyException_SetTraceback(error, traceback);
        result = PyObject_CallMethodObjArgs(self, word_interrupted, error, self, token, arguments[0], Py_None, NULL);
        Py_XDECREF(type), Py_XDECREF(error), Py_XDECREF(traceback);
    }
    Py_DECREF(token);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    Py_RETURN_NONE;
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
static PyMethodDef of_trace = {"_send", (PyCFunction)(void (*)(void))trace_send, METH_FASTCALL, NULL};
static PyMethodDef free_standing[] = {
    {"_describe", (PyCFunction)(void (*)(void))describe, METH_FASTCALL, NULL},
    {"are_plain", (PyCFunction)(void (*)(void))plain, METH_FASTCALL, NULL},
};

static char *names[] = {"phase",     "span",   "trace", "context", "variable",    "span_key", "phase_key", "switch",
                        "clock",     "known",  "enter", "exit",    "send",        "describe", "are_plain", "dumps",
                        "crc32",     "write_every",     "most",    NULL};

PyDoc_STRVAR(install_doc,
             "Take what the functions here work with, Python's functions among it; gives those that stand for them, by\n"
             "the same names. Once for a process.");

static PyObject *
install(PyObject *Py_UNUSED(module), PyObject *arguments, PyObject *named)
{
    if (!PyArg_ParseTupleAndKeywords(
            arguments, named, "$O!O!O!O!O!OOO!O!O!OOOOOOOll", names, &PyType_Type, &type_phase, &PyType_Type, &type_span,
            &PyType_Type, &type_trace, &PyType_Type, &type_context, &PyContextVar_Type, &variable, &span_key, &phase_key,
            &PyDict_Type, &names_of_switch, &PyDict_Type, &names_of_clock, &PyDict_Type, &known_names, &python_enter,
            &python_exit, &python_send, &python_describe, &python_are_plain, &dumps, &crc32, &write_every, &most))
        return NULL;
    if (type_context->tp_new != PyDict_Type.tp_new || type_context->tp_init != PyDict_Type.tp_init) {
        PyErr_SetString(PyExc_TypeError, "an OpenTelemetry context is expected to be made like a dict");
        return NULL;
    }
    if (find_slot(type_span, "row", &at_row) || find_slot(type_span, "parent", &at_parent)
        || find_slot(type_span, "owner", &at_owner) || find_slot(type_span, "mirror", &at_mirror)
        || find_slot(type_span, "_span_context", &at_span_context) || find_slot(type_phase, "_said", &at_said)
        || find_slot(type_phase, "_attributes", &at_attributes) || find_slot(type_phase, "_entered", &at_entered)
        || find_slot(type_trace, "bare", &at_bare) || find_slot(type_trace, "_indices", &at_indices)
        || find_slot(type_trace, "offset", &at_offset) || find_slot(type_trace, "runtime", &at_runtime)
        || find_slot(type_trace, "_sequence", &at_sequence) || find_slot(type_trace, "spans", &at_spans)
        || find_slot(type_trace, "trace_hex", &at_trace_hex))
        return NULL;
    /* For as long as the process lives: what was put in their places may be called at any time. */
    PyObject *kept[] = {(PyObject *)type_phase, (PyObject *)type_span, (PyObject *)type_trace, (PyObject *)type_context,
                        variable, span_key, phase_key, names_of_switch, names_of_clock, known_names, python_enter,
                        python_exit, python_send, python_describe, python_are_plain, dumps, crc32};
    for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++)
        Py_INCREF(kept[i]);
    return Py_BuildValue("{sNsNsNsNsN}", "enter", PyDescr_NewMethod(type_phase, &of_phase[0]), "exit",
                         PyDescr_NewMethod(type_phase, &of_phase[1]), "send", PyDescr_NewMethod(type_trace, &of_trace),
                         "describe", PyCFunction_New(&free_standing[0], NULL), "are_plain",
                         PyCFunction_New(&free_standing[1], NULL));
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
        {&word_append, "append"},           {&word_attribute_max_bytes, "attribute_max_bytes"},
        {&word_end_span, "end_span"},       {&word_interrupted, "_interrupted"},
        {&word_journal, "journal"},         {&word_monotonic_ns, "monotonic_ns"},
        {&word_runtime, "_runtime"},        {&word_settings, "settings"},
        {&no_text, ""},
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
