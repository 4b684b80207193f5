/* The plain literals of a text, compiled: the twin of literals.py, whose words on it hold here. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

typedef struct {
    PyObject *sql;
    const void *data;
    Py_ssize_t size;
    int kind;
} Text;

static Py_UCS4 at(const Text *text, Py_ssize_t place) { /* 0 outside the text */
    return place >= 0 && place < text->size ? PyUnicode_READ(text->kind, text->data, place) : 0;
}

static int is_digit(Py_UCS4 one) { return one >= '0' && one <= '9'; }

static int is_word(Py_UCS4 one) { /* a digit or a dollar behind it belongs to the same name or number */
    return (one >= 'a' && one <= 'z') || (one >= 'A' && one <= 'Z') || is_digit(one) || one == '_' || one == '$' ||
           one >= 0x80;
}

static int is_digit_of(Py_UCS4 one, int base) {
    if (one == '_') return 1;
    if (base <= 10) return one >= '0' && one < (Py_UCS4)('0' + base);
    return is_digit(one) || (one >= 'a' && one <= 'f') || (one >= 'A' && one <= 'F');
}

static Py_ssize_t run(const Text *text, Py_ssize_t place, int base) { /* where digits and underscores end */
    while (is_digit_of(at(text, place), base)) place++;
    return place;
}

static Py_ssize_t number(const Text *text, Py_ssize_t place) { /* where a number ends; NUMBER of tokens.py */
    Py_UCS4 letter = at(text, place + 1) | 0x20;
    int base = at(text, place) != '0' ? 0 : letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (base && is_digit_of(at(text, place + 2), base)) return run(text, place + 2, base);
    if (at(text, place) == '.') {
        place = run(text, place + 1, 10);
    } else {
        place = run(text, place, 10);
        if (at(text, place) == '.' && at(text, place + 1) != '.') place = run(text, place + 1, 10);
    }
    if ((at(text, place) | 0x20) == 'e') {
        Py_ssize_t power = place + 1;
        if (at(text, power) == '+' || at(text, power) == '-') power++;
        if (is_digit(at(text, power))) return run(text, power, 10);
    }
    return place;
}

static Py_ssize_t closed(const Text *text, Py_ssize_t place) { /* where what is quoted ends; -1 where it does not */
    Py_UCS4 quote = at(text, place);
    for (place++; place < text->size; place++) {
        if (PyUnicode_READ(text->kind, text->data, place) != quote) continue;
        if (at(text, place + 1) != quote) return place + 1;
        place++;
    }
    return -1;
}

/* Where the literal ends that begins at `place`; 0 where none does, and *past is then the next place to look at; -1
 * where the walk cannot go on. */
static Py_ssize_t literal(const Text *text, Py_ssize_t place, Py_ssize_t *past) {
    Py_UCS4 one = at(text, place), before = at(text, place - 1), following = at(text, place + 1);
    *past = place + 1;
    switch (one) {
        case '\'':
            return before && before < 0x80 && strchr("eEnNbBxX&", (int)before) ? -1 : closed(text, place);
        case '"':
            *past = closed(text, place);
            return *past < 0 ? -1 : 0;
        case '$':
            if (is_word(before)) return 0;
            while (is_digit(at(text, *past))) ++*past;
            return *past == place + 1 || at(text, *past) == '$' ? -1 : 0;
        case '.':
            return !is_digit(following) ? 0 : is_word(before) ? -1 : number(text, place);
        case '-':
            return following == '-' ? -1 : 0;
        case '/':
            return following == '*' ? -1 : 0;
        default:
            return is_digit(one) && !is_word(before) ? number(text, place) : 0;
    }
}

static int append(PyObject *list, const Text *text, Py_ssize_t start, Py_ssize_t end) {
    PyObject *part = PyUnicode_Substring(text->sql, start, end);
    int failed = !part || PyList_Append(list, part) < 0;
    Py_XDECREF(part);
    return failed ? -1 : 0;
}

static int walk(const Text *text, PyObject *befores, PyObject *literals) { /* 1: to the end; 0: not; -1: error */
    Py_ssize_t start = 0, place = 0, past;
    while (place < text->size) {
        Py_ssize_t end = literal(text, place, &past);
        if (end < 0) return 0;
        if (!end) {
            place = past;
            continue;
        }
        int quoted = at(text, place) == '\'';
        if (append(befores, text, start, place + quoted) < 0 || append(literals, text, place, end) < 0) return -1;
        start = place = end;
    }
    return append(befores, text, start, text->size) < 0 ? -1 : 1;
}

static PyObject *take_out(PyObject *module, PyObject *sql) {
    if (!PyUnicode_Check(sql)) return PyErr_Format(PyExc_TypeError, "SQL is a str");
    Text text = {sql, PyUnicode_DATA(sql), PyUnicode_GET_LENGTH(sql), PyUnicode_KIND(sql)};
    PyObject *befores = PyList_New(0), *literals = PyList_New(0), *nul = NULL, *key = NULL, *result = NULL;
    int whole = befores && literals ? walk(&text, befores, literals) : -1;
    if (whole == 0) result = Py_NewRef(Py_None);
    if (whole == 1 && (nul = PyUnicode_FromStringAndSize("", 1)) && (key = PyUnicode_Join(nul, befores)))
        result = PyTuple_Pack(2, key, literals);
    Py_XDECREF(befores), Py_XDECREF(literals), Py_XDECREF(nul), Py_XDECREF(key);
    return result;
}

static PyMethodDef methods[] = {{"take_out", take_out, METH_O, NULL}, {NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_literals", .m_methods = methods};

PyMODINIT_FUNC PyInit__literals(void) { return PyModuleDef_Init(&module); }
