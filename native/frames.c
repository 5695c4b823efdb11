/* The frame of a journal's line (`lines.frame`, `lines.split`): put around it with its checksum, and taken off again. */

#include "native.h"

enum { SUM = 8, KIND_AT = SUM + 1, TRACE_AT = KIND_AT + 1, TRACE = 32, JSON_AT = TRACE_AT + TRACE + 1 };

static uint32_t sums[8][256]; /* by how many bytes follow, and by byte */

/* Before the first checksum. */
void
prepare_sums(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (int bit = 0; bit < 8; bit++)
            sum = sum & 1 ? (sum >> 1) ^ 0xEDB88320u : sum >> 1;
        sums[0][byte] = sum;
    }
    for (int follow = 1; follow < 8; follow++)
        for (int byte = 0; byte < 256; byte++)
            sums[follow][byte] = sums[0][sums[follow - 1][byte] & 255] ^ (sums[follow - 1][byte] >> 8);
}

/* `zlib.crc32`, eight bytes at a time (Kounavis and Berry, 2005: slicing by 8). */
static uint32_t
sum_of(const unsigned char *bytes, Py_ssize_t size)
{
    uint32_t sum = ~0u;
    for (; size >= 8; bytes += 8, size -= 8) {
        sum ^= bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
        sum = sums[7][sum & 255] ^ sums[6][(sum >> 8) & 255] ^ sums[5][(sum >> 16) & 255] ^ sums[4][sum >> 24]
              ^ sums[3][bytes[4]] ^ sums[2][bytes[5]] ^ sums[1][bytes[6]] ^ sums[0][bytes[7]];
    }
    while (size--)
        sum = (sum >> 8) ^ sums[0][(sum ^ *bytes++) & 255];
    return ~sum;
}

/* `lines.frame`, a new reference. */
PyObject *
framed(PyObject *kind, PyObject *trace, PyObject *payload)
{
    Py_ssize_t of_kind = PyBytes_GET_SIZE(kind), of_trace = PyBytes_GET_SIZE(trace),
               of_payload = PyBytes_GET_SIZE(payload), size = of_kind + of_trace + 1 + of_payload;
    PyObject *line = PyBytes_FromStringAndSize(NULL, KIND_AT + size + 1);
    if (line == NULL)
        return NULL;
    char *start = PyBytes_AS_STRING(line), *to = start + KIND_AT;
    memcpy(to, PyBytes_AS_STRING(kind), of_kind);
    memcpy(to + of_kind, PyBytes_AS_STRING(trace), of_trace);
    to[of_kind + of_trace] = ' ';
    memcpy(to + of_kind + of_trace + 1, PyBytes_AS_STRING(payload), of_payload);
    to[size] = '\n';
    uint32_t sum = sum_of((unsigned char *)to, size);
    for (int digit = SUM - 1; digit >= 0; digit--, sum >>= 4)
        start[digit] = "0123456789abcdef"[sum & 15];
    start[SUM] = ' ';
    return line;
}

/* Whether it is a line as `framed` makes them, without its newline. */
static int
is_good(const char *line, Py_ssize_t size)
{
    uint32_t said = 0;
    if (size <= JSON_AT || line[SUM] != ' '
        || (line[KIND_AT] != *PyBytes_AS_STRING(kind_goes_on) && line[KIND_AT] != *PyBytes_AS_STRING(kind_ends)
            && line[KIND_AT] != *PyBytes_AS_STRING(kind_passes)))
        return 0;
    for (int digit = 0; digit < SUM; digit++) {
        char c = line[digit];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return 0;
        said = said << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return said == sum_of((const unsigned char *)line + KIND_AT, size - KIND_AT);
}

/* [(line, offset behind its newline)], a new reference; else NULL, and maybe an exception set, where one is not good. */
static PyObject *
good_lines(PyObject *chunk)
{
    const char *start = PyBytes_AS_STRING(chunk), *end = start + PyBytes_GET_SIZE(chunk), *at = start;
    PyObject *found = PyList_New(0);
    while (found != NULL && at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at)), *behind = newline == NULL ? end : newline + 1;
        PyObject *each = NULL;
        if (newline != NULL && is_good(at, newline - at))
            each = Py_BuildValue("y#n", at, newline - at, (Py_ssize_t)(behind - start));
        if (each == NULL || PyList_Append(found, each) < 0)
            Py_CLEAR(found);
        Py_XDECREF(each);
        at = behind;
    }
    return found;
}

PyObject *
split(PyObject *Py_UNUSED(module), PyObject *chunk)
{
    PyObject *found = PyBytes_CheckExact(chunk) ? good_lines(chunk) : NULL;
    if (found != NULL)
        return found;
    PyErr_Clear();
    return PyObject_CallOneArg(python_split, chunk);
}
