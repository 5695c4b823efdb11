/* Setting up: finding slots and names, and handing out what stands in the places of Python's functions. */

#define SHARED /* they are here */
#include "native.h"

#include <structmember.h>

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
    {"split", split, METH_O, NULL},
    {"fill", (PyCFunction)(void (*)(void))fill_templates, METH_FASTCALL, NULL},
};

static char *names[] = {"phase",     "span",     "trace",     "session",  "context",  "variable",   "span_key",
                        "phase_key", "switch",   "clock",     "ids",      "semconv",  "known",      "submission",
                        "stats",     "counting", "internal",  "goes_on",  "ends",     "passes",   "enter",      "exit",
                        "send",      "describe", "are_plain", "begin",    "enqueued", "execution",  "end_span",
                        "accepted",  "consumed", "scope",     "scope_enter", "scope_exit", "add_span",
                        "current",   "make_execution", "dumps",     "split",    "fill",     "write_every", "most",    NULL};

PyDoc_STRVAR(install_doc,
             "Take what the functions here work with, Python's functions among it; gives those that stand for them, by\n"
             "the same names. Once for a process.");

static PyObject *
install(PyObject *Py_UNUSED(module), PyObject *arguments, PyObject *named)
{
    if (!PyArg_ParseTupleAndKeywords(
            arguments, named, "$O!O!O!O!O!O!OOO!O!O!O!O!O!O!OOOOOOOOOOOOOOOOO!OOOOOOOOll", names, &PyType_Type, &type_phase,
            &PyType_Type, &type_span, &PyType_Type, &type_trace, &PyType_Type, &type_session, &PyType_Type, &type_context,
            &PyContextVar_Type, &variable, &span_key, &phase_key, &PyDict_Type, &names_of_switch, &PyDict_Type,
            &names_of_clock, &PyDict_Type, &names_of_ids, &PyDict_Type, &names_on_the_wire, &PyDict_Type, &known_names,
            &PyDict_Type, &submission, &PyTuple_Type, &stats_names, &counting, &internal, &kind_goes_on, &kind_ends, &kind_passes,
            &python_enter, &python_exit, &python_send, &python_describe, &python_are_plain, &python_session,
            &python_enqueued, &python_execution, &python_end_span, &python_accepted, &python_consumed, &PyType_Type,
            &type_execution, &python_scope_enter, &python_scope_exit, &python_add_span, &python_current,
            &python_make_execution, &dumps, &python_split, &python_fill, &write_every, &most))
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
                        names_of_ids, known_names, submission, stats_names, counting, internal, kind_goes_on, kind_ends, kind_passes,
                        python_enter, python_exit, python_send, python_describe, python_are_plain, python_session,
                        python_enqueued, python_execution, python_end_span, python_accepted, python_consumed, python_scope_enter,
                        python_scope_exit, python_add_span, python_current, python_make_execution, (PyObject *)type_execution, dumps, python_split, python_fill};
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
        {"split", NULL, &free_standing[3]},
        {"fill", NULL, &free_standing[4]},
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
    prepare_sums();
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
