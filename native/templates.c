/* Values off lines that are, but for these, as a template says byte for byte (`templates`). */

#include "native.h"

typedef struct {
    const char *at, *end;
} Text;

static void
skip_digits(Text *text)
{
    while (text->at < text->end && *text->at >= '0' && *text->at <= '9')
        text->at++;
}

/* Whether a whole number of JSON's stands here, which is passed over. */
static int
pass_whole(Text *text)
{
    if (text->at < text->end && *text->at == '-')
        text->at++;
    const char *first = text->at;
    skip_digits(text);
    return text->at > first && (*first != '0' || text->at == first + 1);
}

/* A whole number that fits into 64 bits for certain: of 19 digits none that begins with a 9. */
static PyObject *
take_int(Text *text)
{
    const char *first = text->at;
    if (!pass_whole(text) || text->at - first > 19)
        return NULL;
    int below = *first == '-';
    const char *digit = first + below;
    if (text->at - digit > 18 && !(text->at - digit == 19 && *digit < '9'))
        return NULL;
    long long number = 0;
    for (; digit < text->at; digit++)
        number = number * 10 + (*digit - '0');
    return below && number == 0 ? NULL : PyLong_FromLongLong(below ? -number : number);
}

/* A number with a fraction or an exponent. */
static PyObject *
take_float(Text *text)
{
    const char *first = text->at;
    char copy[64];
    int is_float = 0;
    if (!pass_whole(text))
        return NULL;
    if (text->at < text->end && *text->at == '.') {
        const char *point = text->at++;
        skip_digits(text);
        is_float = text->at > point + 1;
        if (!is_float)
            return NULL;
    }
    if (text->at < text->end && (*text->at == 'e' || *text->at == 'E')) {
        text->at++;
        if (text->at < text->end && (*text->at == '+' || *text->at == '-'))
            text->at++;
        const char *exponent = text->at;
        skip_digits(text);
        is_float = text->at > exponent;
    }
    Py_ssize_t size = text->at - first;
    if (!is_float || size >= (Py_ssize_t)sizeof(copy))
        return NULL;
    memcpy(copy, first, size);
    copy[size] = '\0';
    double number = PyOS_string_to_double(copy, NULL, NULL);
    return number == -1.0 && PyErr_Occurred() ? NULL : PyFloat_FromDouble(number);
}

/* A text without escapes. */
static PyObject *
take_str(Text *text)
{
    if (text->at == text->end || *text->at++ != '"')
        return NULL;
    const char *first = text->at;
    while (text->at < text->end && *text->at != '"') {
        if (*text->at == '\\' || (unsigned char)*text->at < ' ')
            return NULL;
        text->at++;
    }
    if (text->at == text->end)
        return NULL;
    return PyUnicode_DecodeUTF8(first, text->at++ - first, NULL);
}

static PyObject *
take_bool(Text *text)
{
    Py_ssize_t left = text->end - text->at;
    int is_true = left >= 4 && memcmp(text->at, "true", 4) == 0;
    if (!is_true && !(left >= 5 && memcmp(text->at, "false", 5) == 0))
        return NULL;
    text->at += is_true ? 4 : 5;
    return PyBool_FromLong(is_true);
}

static PyObject *
take(Text *text, Py_UCS4 kind)
{
    return kind == 'i' ? take_int(text) : kind == 's' ? take_str(text) : kind == 'f' ? take_float(text) : take_bool(text);
}

/* Put a line's values at the end of a list; False, and maybe an exception set, where it is not as the template says. */
static int
fill(PyObject *values, PyObject *template, const char *start, const char *end)
{
    Text text = {start, end};
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(template); i++) {
        PyObject *piece = PyTuple_GET_ITEM(template, i);
        if (PyBytes_CheckExact(piece)) {
            Py_ssize_t size = PyBytes_GET_SIZE(piece);
            if (text.end - text.at < size || memcmp(text.at, PyBytes_AS_STRING(piece), (size_t)size) != 0)
                return 0;
            text.at += size;
        } else if (PyUnicode_CheckExact(piece) && PyUnicode_GET_LENGTH(piece) == 1) {
            PyObject *value = take(&text, PyUnicode_READ_CHAR(piece, 0));
            int failed = value == NULL || PyList_Append(values, value) < 0;
            Py_XDECREF(value);
            if (failed)
                return 0;
        } else
            return 0;
    }
    return text.at == text.end;
}

/* The values in the holes of all lines, a new reference; else NULL, and maybe an exception set. */
static PyObject *
filled(PyObject *templates, PyObject *lines, Py_ssize_t from)
{
    PyObject *values = PyList_New(0);
    for (Py_ssize_t i = 0; values != NULL && i < PyTuple_GET_SIZE(templates); i++) {
        PyObject *template = PyTuple_GET_ITEM(templates, i), *line = PyList_GET_ITEM(lines, i);
        if (!PyTuple_CheckExact(template) || !PyBytes_CheckExact(line) || PyBytes_GET_SIZE(line) < from
            || !fill(values, template, PyBytes_AS_STRING(line) + from, PyBytes_AS_STRING(line) + PyBytes_GET_SIZE(line)))
            Py_CLEAR(values);
    }
    return values;
}

PyObject *
fill_templates(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *values = NULL;
    Py_ssize_t from = count == 3 ? PyLong_AsSsize_t(arguments[2]) : -1;
    if (from >= 0 && PyTuple_CheckExact(arguments[0]) && PyList_CheckExact(arguments[1])
        && PyTuple_GET_SIZE(arguments[0]) == PyList_GET_SIZE(arguments[1]))
        values = filled(arguments[0], arguments[1], from);
    if (values != NULL)
        return values;
    PyErr_Clear();
    return PyObject_Vectorcall(python_fill, arguments, (size_t)count, NULL);
}
