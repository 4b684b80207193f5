/* The frame scanner, compiled: the twin of frames.py, which says what it does and why. Same names, same records.
 * One call a chunk, no Python object a frame; only rare events make objects. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <structmember.h>
#include <time.h>

enum { KEPT = 65536, MAX_PENDING = 65536, MAX_SUSPENDED = 256, SMALL = 10000, PASSWORD = 65535 };
enum { LARGE = 0x40000000, HEADER = 17, COUNT_HEAD = 5, COUNT_BODY = 13 };
enum { UNKNOWN_TYPE = 1, BAD_LENGTH, OVER_LIMIT, IMPOSSIBLE, STATE_CAP, BAD_MESSAGE, RAISED = 99 };
enum { PREPARED = 1, CLOSED, KEY, MISSED, EXCHANGE };
enum { UNKNOWN = -3, COUNT = -2, DROP = -1 };

typedef struct { int keep; uint32_t limit; } Entry;
typedef struct { uint8_t *part; size_t length, room; uint64_t skip; } Side;
typedef struct { uint8_t kind; uint64_t name; PyObject *bytes; } Request; /* name: a portal's; bytes: of the event */
typedef struct {
    PyObject_HEAD
    PyObject *events;
    Side sides[2];
    Request *pending;
    size_t first, last, room; /* pending[first..last) */
    uint64_t suspended[MAX_SUSPENDED];
    int suspensions;
    unsigned int number;
    long long begun;
    unsigned char status;
    char blind, authenticated, open, skipping, copying;
} State;

static Entry tables[2][256];

static void fill(Entry *table, const char *kinds, int keep, uint32_t limit) {
    for (; *kinds; kinds++) table[(uint8_t)*kinds] = (Entry){keep, limit};
}

static uint32_t read_u32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static void write_u32(uint8_t *p, uint32_t v) { p[0] = v >> 24; p[1] = v >> 16; p[2] = v >> 8; p[3] = v; }
static void write_u64(uint8_t *p, uint64_t v) { write_u32(p, v >> 32); write_u32(p + 4, (uint32_t)v); }
static uint64_t read_u64(const uint8_t *p) { return (uint64_t)read_u32(p) << 32 | read_u32(p + 4); }

static uint8_t *grow(PyObject *out, size_t size) { /* room for `size` more bytes; NULL with an exception */
    Py_ssize_t before = PyByteArray_GET_SIZE(out);
    if (PyByteArray_Resize(out, before + (Py_ssize_t)size) < 0) return NULL;
    return (uint8_t *)PyByteArray_AS_STRING(out) + before;
}

static uint64_t hash(const uint8_t *name, size_t size) { /* FNV-1a */
    uint64_t h = 14695981039346656037u;
    while (size--) h = (h ^ *name++) * 1099511628211u;
    return h;
}

static int tell(State *s, int kind, const uint8_t *data, size_t size, PyObject *bytes) {
    PyObject *event = bytes ? Py_BuildValue("(iO)", kind, bytes) : Py_BuildValue("(iy#)", kind, data ? data : (const uint8_t *)"", (Py_ssize_t)size);
    int failed = !event || PyList_Append(s->events, event) < 0;
    Py_XDECREF(event);
    return failed ? RAISED : 0;
}

/* -- pairing ------------------------------------------------------------------------------------------------------ */

static int is_sync(int kind) { return kind == 'Q' || kind == 'S' || kind == 'F'; }
static int is_copy_end(int kind) { return kind == 'c' || kind == 'f'; }

static void drop(State *s, size_t count) {
    for (; count; count--, s->first++) Py_XDECREF(s->pending[s->first].bytes);
    if (s->first == s->last) s->first = s->last = 0;
}

static int head(State *s) {
    while (s->first < s->last && is_copy_end(s->pending[s->first].kind)) drop(s, 1);
    return s->first < s->last ? s->pending[s->first].kind : 0;
}

static int push(State *s, uint8_t kind, uint64_t name, PyObject *bytes) {
    if (s->last - s->first >= MAX_PENDING) { Py_XDECREF(bytes); return STATE_CAP; }
    if (s->last == s->room && s->first) {
        memmove(s->pending, s->pending + s->first, (s->last - s->first) * sizeof(Request));
        s->last -= s->first;
        s->first = 0;
    } else if (s->last == s->room) {
        size_t room = s->room ? 2 * s->room : 8;
        Request *more = PyMem_Realloc(s->pending, room * sizeof(Request));
        if (!more) { Py_XDECREF(bytes); PyErr_NoMemory(); return RAISED; }
        s->pending = more;
        s->room = room;
    }
    s->pending[s->last++] = (Request){kind, name, bytes};
    return 0;
}

static int request(State *s, int kind, const uint8_t *frame, size_t size, int whole) {
    if (!strchr("QPBEDCFScf", kind) || (s->skipping && kind != 'S')) return 0;
    s->skipping = 0;
    if (is_copy_end(kind)) {
        s->copying = 0;
        if (s->first == s->last) return 0;
    } else if (kind == 'S' && s->copying) return 0;
    uint64_t name = 0;
    PyObject *bytes = NULL;
    if (kind == 'P' || kind == 'B' || kind == 'E') {
        const uint8_t *end = size > 5 ? memchr(frame + 5, 0, size - 5) : NULL;
        if (!end) return BAD_MESSAGE;
        if (kind != 'P') name = hash(frame + 5, end - frame - 5);
        else if (whole && end > frame + 5 && !(bytes = PyBytes_FromStringAndSize((const char *)frame, size))) return RAISED;
    } else if (kind == 'C') {
        if (size < 7 || frame[size - 1]) return BAD_MESSAGE;
        name = hash(frame + 6, size - 7);
        if (frame[5] == 'S' && !(bytes = PyBytes_FromStringAndSize((const char *)frame + 6, size - 7))) return RAISED;
    }
    int failed = push(s, kind, name, bytes);
    if (!failed && !is_copy_end(kind)) s->open = !is_sync(kind);
    return failed;
}

static int begin(State *s, const char *tag, size_t size) {
    s->begun++;
    return s->blind ? tell(s, MISSED, (const uint8_t *)tag, size, NULL) : 0;
}

static int forget_portal(State *s, uint64_t name) {
    for (int n = 0; n < s->suspensions; n++)
        if (s->suspended[n] == name) { s->suspended[n] = s->suspended[--s->suspensions]; return 1; }
    return 0;
}

static int end_portal(State *s, uint64_t name) { return forget_portal(s, name) ? begin(s, "", 0) : 0; }

static int completed(State *s, int kind, int at) {
    if (at != (kind == '1' ? 'P' : kind == '2' ? 'B' : kind == '3' ? 'C' : 'E')) return IMPOSSIBLE;
    Request one = s->pending[s->first];
    int failed = 0;
    if (one.bytes) failed = tell(s, kind == '1' ? PREPARED : CLOSED, NULL, 0, one.bytes);
    else if (kind == '2' || kind == '3') failed = end_portal(s, one.name);
    else if (kind == 's' && !forget_portal(s, one.name) && s->suspensions >= MAX_SUSPENDED) failed = STATE_CAP;
    else if (kind == 's') s->suspended[s->suspensions++] = one.name;
    drop(s, 1);
    return failed;
}

static int error(State *s, int at) {
    if (!at || !s->authenticated) return 0;
    s->copying = 0;
    int failed = strchr("QPBE", at) ? begin(s, "ERROR", 5) : 0;
    if (is_sync(at)) return failed;
    if (at == 'E') forget_portal(s, s->pending[s->first].name);
    while (s->first < s->last && s->pending[s->first].kind != 'S') drop(s, 1);
    s->skipping = s->first == s->last;
    return failed;
}

static void copy_in(State *s) {
    size_t end = s->first, kept = s->first;
    while (end < s->last && !is_copy_end(s->pending[end].kind)) end++;
    s->copying = end == s->last;
    s->open |= s->copying;
    for (size_t n = s->first; n < s->last; n++)
        if (n >= end || s->pending[n].kind != 'S') s->pending[kept++] = s->pending[n];
    s->last = kept;
}

static int ready(State *s, int at, const uint8_t *body, size_t size, long long *done) {
    if (!size) return BAD_MESSAGE;
    if (s->authenticated) {
        if (!at || !is_sync(at)) return IMPOSSIBLE;
        drop(s, 1);
        head(s);
    }
    s->authenticated = 1;
    s->status = body[0];
    if (at == 'Q' && end_portal(s, hash(NULL, 0))) return RAISED;
    while (body[0] == 'I' && s->suspensions) if (end_portal(s, s->suspended[0])) return RAISED;
    if (s->blind && tell(s, EXCHANGE, NULL, 0, NULL)) return RAISED;
    *done += s->begun;
    s->begun = 0;
    return 0;
}

static int answer(State *s, int kind, const uint8_t *body, size_t size, long long *done) {
    int at = head(s);
    switch (kind) {
    case 'C': case 'I':
        if (at != 'Q' && at != 'E') return IMPOSSIBLE;
        if (at == 'E') { forget_portal(s, s->pending[s->first].name); drop(s, 1); }
        return kind == 'C' ? begin(s, (const char *)body, size ? size - 1 : 0) : begin(s, "EMPTY", 5);
    case 'Z': return ready(s, at, body, size, done);
    case 'E': return error(s, at);
    case '1': case '2': case '3': case 's': return completed(s, kind, at);
    case 'T': case 'n': if (at == 'D') drop(s, 1); return 0;
    case 'G': if (at == 'E') copy_in(s); return 0;
    case 'K': return tell(s, KEY, body, size, NULL);
    }
    return 0;
}

/* -- frames ------------------------------------------------------------------------------------------------------- */

static int collect(Side *side, const uint8_t *from, size_t size) {
    if (side->length + size > side->room) {
        size_t room = side->length + size > 512 ? KEPT + 5 : 512;
        uint8_t *more = PyMem_Realloc(side->part, room);
        if (!more) { PyErr_NoMemory(); return RAISED; }
        side->part = more;
        side->room = room;
    }
    memcpy(side->part + side->length, from, size);
    side->length += size;
    return 0;
}

static int count(PyObject *out, Py_ssize_t *counted, uint8_t kind, uint64_t size) {
    uint8_t *p = (uint8_t *)PyByteArray_AS_STRING(out) + *counted;
    if (*counted && *p == kind) {
        write_u32(p + 1, read_u32(p + 1) + 1);
        write_u64(p + 5, read_u64(p + 5) + size);
        return 0;
    }
    if (!(p = grow(out, COUNT_HEAD + COUNT_BODY))) return RAISED;
    *counted = PyByteArray_GET_SIZE(out) - COUNT_BODY;
    p[0] = 1;
    write_u32(p + 1, 4 + COUNT_BODY);
    p[5] = kind;
    write_u32(p + 6, 1);
    write_u64(p + 10, size);
    return 0;
}

static int put(PyObject *out, const uint8_t *frame, size_t want, uint32_t size) {
    int whole = want == (size_t)size + 1;
    uint8_t *p = grow(out, want + (whole ? 0 : 5));
    if (!p) return RAISED;
    if (whole) { memcpy(p, frame, want); return 0; }
    p[0] = 2;
    write_u32(p + 1, (uint32_t)want + 4);
    memcpy(p + 5, frame, 5);
    memcpy(p + 10, frame + 5, want - 5);
    return 0;
}

static int scan(State *s, int backend, const uint8_t *p, const uint8_t *end, PyObject *out, long long *done) {
    Side *side = &s->sides[backend];
    Py_ssize_t counted = 0;
    while (p < end) {
        size_t left = end - p;
        if (side->skip) {
            size_t taken = side->skip < left ? side->skip : left;
            side->skip -= taken;
            p += taken;
            continue;
        }
        int cut = side->length > 0 || left < 5; /* the frame is not in one piece: collect it */
        if (cut && side->length < 5) {
            size_t taken = 5 - side->length < left ? 5 - side->length : left;
            if (collect(side, p, taken)) return RAISED;
            p += taken;
            left -= taken;
            if (side->length < 5) break;
        }
        const uint8_t *frame = cut ? side->part : p;
        uint8_t kind = frame[0];
        uint32_t size = read_u32(frame + 1);
        Entry entry = tables[backend][kind];
        if (entry.keep == UNKNOWN) return UNKNOWN_TYPE;
        if (size < 4 || size > LARGE) return BAD_LENGTH;
        if (size > entry.limit) return OVER_LIMIT;
        size_t body = entry.keep < 0 ? 0 : (uint32_t)entry.keep < size - 4 ? (size_t)entry.keep : size - 4;
        size_t want = 5 + body, have = cut ? side->length : left;
        if (have < want) {
            size_t taken = cut && want - have < left ? want - have : left;
            if (collect(side, p, taken)) return RAISED;
            p += taken;
            if (side->length < want) break;
            frame = side->part;
        } else if (!cut) p += want;
        side->length = 0;
        side->skip = (uint64_t)size + 1 - want;
        int failed = 0;
        if (entry.keep == DROP) continue;
        if (entry.keep == COUNT) {
            if (!s->blind) failed = count(out, &counted, kind, (uint64_t)size + 1);
        } else {
            if (!s->blind) { counted = 0; failed = put(out, frame, want, size); }
            if (!failed) failed = backend ? answer(s, kind, frame + 5, body, done) : request(s, kind, frame, want, !side->skip);
        }
        if (failed) return failed;
    }
    return 0;
}

static PyTypeObject StateType;

static PyObject *scan_and_pack(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 4 || !PyBytes_Check(args[0]) || Py_TYPE(args[1]) != &StateType || !PyByteArray_Check(args[2]))
        return PyErr_Format(PyExc_TypeError, "scan_and_pack(chunk: bytes, state: State, out: bytearray, backend: bool)");
    State *s = (State *)args[1];
    PyObject *out = args[2];
    int backend = PyObject_IsTrue(args[3]);
    if (backend < 0) return NULL;
    Py_ssize_t start = PyByteArray_GET_SIZE(out);
    uint8_t *header;
    if (!s->blind) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (!(header = grow(out, HEADER))) return NULL;
        header[0] = backend ? 4 : 3;
        write_u32(header + 1, s->number);
        write_u64(header + 5, (uint64_t)now.tv_sec * 1000000000u + now.tv_nsec);
    }
    long long done = 0;
    const uint8_t *chunk = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    int failed = scan(s, backend, chunk, chunk + PyBytes_GET_SIZE(args[0]), out, &done);
    if (!s->blind) {
        Py_ssize_t size = PyByteArray_GET_SIZE(out) - start - HEADER;
        if (size) write_u32((uint8_t *)PyByteArray_AS_STRING(out) + start + HEADER - 4, (uint32_t)size);
        else if (PyByteArray_Resize(out, start) < 0) return NULL;
    }
    if (failed) s->begun += done;
    if (failed == RAISED) return NULL;
    return PyLong_FromLongLong(failed ? -failed : done);
}

/* -- the state's type --------------------------------------------------------------------------------------------- */

static PyObject *state_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    unsigned int number;
    if (!PyArg_ParseTuple(args, "I", &number)) return NULL;
    State *s = (State *)type->tp_alloc(type, 0);
    if (!s) return NULL;
    s->number = number;
    s->status = 'I';
    if (!(s->events = PyList_New(0))) { Py_DECREF(s); return NULL; }
    return (PyObject *)s;
}

static void state_dealloc(State *s) {
    drop(s, s->last - s->first);
    PyMem_Free(s->pending);
    PyMem_Free(s->sides[0].part);
    PyMem_Free(s->sides[1].part);
    Py_XDECREF(s->events);
    Py_TYPE(s)->tp_free((PyObject *)s);
}

static PyObject *quiescent(State *s, void *_) {
    return PyBool_FromLong(s->authenticated && s->first == s->last && !s->open);
}
static PyObject *unfinished(State *s, void *_) { return PyLong_FromLongLong(s->begun + s->suspensions); }

static PyMemberDef members[] = {
    {"number", T_UINT, offsetof(State, number), READONLY, NULL},
    {"events", T_OBJECT_EX, offsetof(State, events), READONLY, NULL},
    {"begun", T_LONGLONG, offsetof(State, begun), 0, NULL},
    {"status", T_UBYTE, offsetof(State, status), READONLY, NULL},
    {"blind", T_BOOL, offsetof(State, blind), 0, NULL},
    {"authenticated", T_BOOL, offsetof(State, authenticated), READONLY, NULL},
    {NULL},
};
static PyGetSetDef properties[] = {
    {"quiescent", (getter)quiescent, NULL, NULL, NULL}, {"unfinished", (getter)unfinished, NULL, NULL, NULL}, {NULL},
};
static PyTypeObject StateType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "pgtattle.proxy.wire._frames.State", .tp_basicsize = sizeof(State),
    .tp_flags = Py_TPFLAGS_DEFAULT, .tp_new = state_new, .tp_dealloc = (destructor)state_dealloc,
    .tp_members = members, .tp_getset = properties,
};
static PyMethodDef functions[] = {
    {"scan_and_pack", (PyCFunction)(void (*)(void))scan_and_pack, METH_FASTCALL, NULL}, {NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_frames", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit__frames(void) {
    for (int n = 0; n < 512; n++) tables[n / 256][n % 256].keep = UNKNOWN;
    fill(tables[0], "QPB", KEPT, LARGE);
    fill(tables[0], "DECSHcfX", KEPT, SMALL);
    fill(tables[0], "d", COUNT, LARGE);
    fill(tables[0], "p", DROP, PASSWORD);
    fill(tables[0], "F", 0, LARGE);
    fill(tables[1], "CIEZTtn123sGHWSNAvc", KEPT, LARGE);
    fill(tables[1], "Dd", COUNT, LARGE);
    fill(tables[1], "RK", 4, LARGE);
    fill(tables[1], "V", 0, LARGE);
    PyObject *made = PyModule_Create(&module);
    if (!made || PyType_Ready(&StateType) < 0 || PyModule_AddObjectRef(made, "State", (PyObject *)&StateType) < 0) return NULL;
    return made;
}
