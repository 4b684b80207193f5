/* The frame scanner, compiled: the twin of frames.py, which says what it does and why. Same names, same records.
 * One call a chunk, no Python object a frame; only rare events make objects. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
enum { KEPT = 65536, SQL = 262144, MAX_PENDING = 65536, MAX_SUSPENDED = 256, MAX_HELD = 1048576, FLUSH_BYTES = 262144, ROW = 1024,
       SAMPLED = 32768, COLUMNS = 32, SHORT = 64, OMITTED = -2, COPY_HEADER = 19 };
enum { UNKNOWN_TYPE = 1, BAD_LENGTH, OVER_LIMIT, IMPOSSIBLE, STATE_CAP, BAD_MESSAGE, EXCEPTION };
enum { PREPARED = 1, CLOSED, KEY, MISSED, EXCHANGE, STATUS, UNKNOWN = -3, COUNT, DROP, HEADER = 17, LARGE = 0x40000000 };
typedef struct { int keep; uint32_t limit; } Entry; static Entry tables[2][256];
typedef struct { uint8_t *part; size_t length, room, want; uint64_t skip, left; int columns; } Side; /* long_rows.py */
typedef struct { uint8_t kind, event; uint64_t name; PyObject *bytes; } Request; /* a portal's name; an event */
typedef struct {
    PyObject_HEAD
    PyObject *events, *out, *notice;
    Side sides[2];
    Request *pending;
    size_t first, last, room, held, sampled, lead; /* of pending[first, last); bytes in it; of rows; before a copy's */
    uint64_t suspended[MAX_SUSPENDED];
    int suspensions, number;
    long long begun, ended;
    char blind, off, authenticated, open, skipping, copying, binary; unsigned char status;
} State;
static void fill(Entry *table, const char *kinds, int keep, uint32_t limit) {
    for (; *kinds; kinds++) table[(uint8_t)*kinds] = (Entry){keep, limit};
}
static uint32_t get32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static uint64_t get64(const uint8_t *p) { return (uint64_t)get32(p) << 32 | get32(p + 4); }
static void put32(uint8_t *p, uint32_t v) { p[0] = v >> 24, p[1] = v >> 16, p[2] = v >> 8, p[3] = v; }
static void put64(uint8_t *p, uint64_t v) { put32(p, v >> 32), put32(p + 4, v); }
static uint64_t hash(const uint8_t *name, size_t size) { /* FNV-1a */
    uint64_t h = 14695981039346656037u;
    for (; size; size--) h = (h ^ *name++) * 1099511628211u;
    return h;
}
static uint8_t *grow(PyObject *out, size_t size) { /* room for `size` more bytes; NULL with an exception */
    Py_ssize_t before = PyByteArray_GET_SIZE(out);
    return PyByteArray_Resize(out, before + size) < 0 ? NULL : (uint8_t *)PyByteArray_AS_STRING(out) + before;
}
static int tell(State *s, int kind, const void *data, size_t size, PyObject *bytes) {
    PyObject *event = bytes ? Py_BuildValue("(iO)", kind, bytes) : Py_BuildValue("(iy#)", kind, data, (Py_ssize_t)size);
    int failed = !event || PyList_Append(s->events, event) < 0 ? EXCEPTION : 0;
    Py_XDECREF(event);
    return failed;
}
/* requests and their answers */
static int is_sync(int k) { return k == 'Q' || k == 'S' || k == 'F'; }
static int is_copy_end(int k) { return k == 'c' || k == 'f'; }
static void drop(State *s, size_t count) {
    for (PyObject *bytes; count; count--, s->first++)
        if ((bytes = s->pending[s->first].bytes)) { s->held -= PyBytes_GET_SIZE(bytes); Py_DECREF(bytes); }
    if (s->first == s->last) s->first = s->last = 0;
}
static int head(State *s) {
    while (s->first < s->last && is_copy_end(s->pending[s->first].kind)) drop(s, 1);
    return s->first < s->last ? s->pending[s->first].kind : 0;
}
static int push(State *s, Request one, const uint8_t *data, size_t size) { /* data: of its event */
    size_t waiting = s->last - s->first;
    if (waiting >= MAX_PENDING) return STATE_CAP;
    if (s->last == s->room && s->first) {
        memmove(s->pending, s->pending + s->first, waiting * sizeof(Request)), s->first = 0, s->last = waiting;
    } else if (s->last == s->room) {
        Request *more = PyMem_Realloc(s->pending, (2 * s->room + 8) * sizeof(Request));
        if (!more) return EXCEPTION;
        s->pending = more, s->room = 2 * s->room + 8;
    }
    if (one.event && !(one.bytes = PyBytes_FromStringAndSize((char *)data, size))) return EXCEPTION;
    if (one.event) s->held += size;
    s->pending[s->last++] = one;
    return 0;
}
static int request(State *s, int kind, const uint8_t *frame, size_t size, int whole) {
    if (!strchr("QPBEDCFScf", kind) || (s->skipping && kind != 'S')) return 0;
    s->skipping = 0;
    if (kind == 'S' && s->copying) return 0;
    if (is_copy_end(kind) && (s->copying = 0, s->first == s->last)) return 0;
    Request one = {.kind = kind};
    const uint8_t *name = frame + 5, *end = memchr(name, 0, size - 5);
    if (strchr("PBE", kind)) {
        if (!end) return BAD_MESSAGE;
        one.name = hash(name, end - name);
        /* of one that cannot be kept is known only that the one before it is gone */
        if (kind == 'P' && end > name) one.event = whole && s->held + size <= MAX_HELD ? PREPARED : CLOSED;
        if (one.event == PREPARED) name = frame, end = frame + size;
    } else if (kind == 'C') {
        if (size < 7 || frame[size - 1]) return BAD_MESSAGE;
        name++, end = frame + size - 1, one.name = hash(name, end - name);
        one.event = frame[5] == 'S' ? CLOSED : 0;
    }
    int failed = push(s, one, name, end - name);
    if (!failed && !is_copy_end(kind)) s->open = !is_sync(kind);
    return failed;
}
static int begin(State *s, const void *tag, size_t size) {
    s->begun++;
    return s->blind ? tell(s, MISSED, tag, size, NULL) : 0;
}
static int forget_portal(State *s, uint64_t name) {
    int n = 0;
    while (n < s->suspensions && s->suspended[n] != name) n++;
    return n < s->suspensions && (s->suspended[n] = s->suspended[--s->suspensions], 1);
}
static int end_portal(State *s, uint64_t name) { return forget_portal(s, name) ? begin(s, "", 0) : 0; }
static int completed(State *s, int kind, int at) {
    if (at != (kind == '1' ? 'P' : kind == '2' ? 'B' : kind == '3' ? 'C' : 'E')) return IMPOSSIBLE;
    Request one = s->pending[s->first];
    int failed = 0;
    if (one.event) failed = tell(s, one.event, NULL, 0, one.bytes);
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
    s->copying = end == s->last, s->open |= s->copying && s->pending[s->first].kind == 'E';
    for (size_t n = s->first; n < s->last; n++)
        if (n >= end || s->pending[n].kind != 'S') s->pending[kept++] = s->pending[n];
    s->last = kept;
}
static int ready(State *s, int at, const uint8_t *body, size_t size, long long *done) {
    if (!size) return BAD_MESSAGE;
    if (s->authenticated) {
        if (!at || !is_sync(at)) return IMPOSSIBLE;
        drop(s, 1), head(s);
    }
    s->authenticated = 1, s->status = body[0];
    if (at == 'Q' && end_portal(s, hash(NULL, 0))) return EXCEPTION;
    while (body[0] == 'I' && s->suspensions) if (end_portal(s, s->suspended[0])) return EXCEPTION;
    if (s->blind && tell(s, EXCHANGE, "", 0, NULL)) return EXCEPTION;
    *done += s->begun, s->begun = 0;
    return 0;
}
static int answer(State *s, int kind, const uint8_t *body, size_t size, long long *done) {
    int at = head(s);
    switch (kind) {
    case 'C': case 'I':
        if (at != 'Q' && at != 'E') return IMPOSSIBLE;
        if (at == 'E') { forget_portal(s, s->pending[s->first].name); drop(s, 1); }
        return kind == 'C' ? begin(s, body, size ? size - 1 : 0) : begin(s, "EMPTY", 5);
    case 'Z': return ready(s, at, body, size, done);
    case 'E': return error(s, at);
    case '1': case '2': case '3': case 's': return completed(s, kind, at);
    case 'T': case 'n': if (at == 'D') drop(s, 1); return 0;
    case 'G': if (at == 'E' || at == 'Q') copy_in(s); return 0;
    case 'H': s->binary = size && body[0] == 1, s->lead = s->binary ? COPY_HEADER : 0; return 0;
    case 'K': return tell(s, KEY, body, size, NULL);
    case 'S': return tell(s, STATUS, body, size, NULL);
    }
    return 0;
}
/* frames */
static int collect(Side *side, const uint8_t **p, const uint8_t *end, size_t want) { /* -1: more is to come */
    size_t left = end - *p, size = want - side->length < left ? want - side->length : left;
    if (want > side->room) {
        size_t room = want <= 512 ? 512 : want <= 4096 ? 4096 : want <= KEPT + 5 ? KEPT + 5 : SQL + 5;
        uint8_t *more = PyMem_Realloc(side->part, room);
        if (!more) return EXCEPTION;
        side->part = more, side->room = room;
    }
    memcpy(side->part + side->length, *p, size);
    side->length += size, *p += size;
    return side->length < want ? -1 : 0;
}
static int long_row(Side *side, const uint8_t **p, const uint8_t *end) { /* -1: more is to come */
    for (int failed;;) {
        size_t here = end - *p, taken = side->skip < here ? side->skip : here;
        side->skip -= taken, *p += taken;
        if (side->skip) return -1;
        if ((failed = collect(side, p, end, side->want))) return failed;
        uint8_t *last = side->part + side->want - 4;
        if (side->columns < 0) side->columns = last[-2] << 8 | last[-1];
        if (side->columns > COLUMNS) side->columns = COLUMNS;
        if (!side->columns) break;
        int32_t value = (int32_t)get32(last);
        if (value < 0) value = 0;
        if (value > SHORT) {
            put32(last, OMITTED);
            side->skip = (uint64_t)value < side->left ? (uint64_t)value : side->left;
            side->left -= side->skip, value = 0;
        }
        size_t more = value + (--side->columns ? 4 : 0);
        if (!more || more > side->left) break;
        side->left -= more, side->want += more;
    }
    side->skip += side->left, side->want = 0;
    return 0;
}
static int count(PyObject *out, Py_ssize_t *counted, uint8_t kind, uint64_t size) {
    uint8_t *p = (uint8_t *)PyByteArray_AS_STRING(out) + *counted;
    if (*counted && *p == kind) { put32(p + 1, get32(p + 1) + 1); put64(p + 5, get64(p + 5) + size); return 0; }
    if (!(p = grow(out, 18))) return EXCEPTION;
    *counted = PyByteArray_GET_SIZE(out) - 13;
    p[0] = 1; put32(p + 1, 17); p[5] = kind; put32(p + 6, 1); put64(p + 10, size);
    return 0;
}
static int put(PyObject *out, const uint8_t *frame, size_t want, uint32_t size) {
    int whole = want == (size_t)size + 1;
    uint8_t *p = grow(out, want + (whole ? 0 : 5));
    if (!p) return EXCEPTION;
    if (!whole) { p[0] = 2; put32(p + 1, want + 4); p += 5; }
    memcpy(p, frame, want);
    return 0;
}
static int scan(State *s, int backend, const uint8_t *p, const uint8_t *end, long long *done) {
    Side *side = &s->sides[backend];
    Py_ssize_t counted = 0; int failed = 0;
    while (p < end) {
        size_t left = end - p, taken = side->skip < left ? side->skip : left;
        if (taken) { side->skip -= taken, p += taken; continue; }
        if (side->want && side->length >= 5) {
            if ((failed = long_row(side, &p, end))) return failed < 0 ? 0 : failed;
            size_t kept = side->length;
            s->sampled += kept, side->length = 0;
            if (!s->blind && (counted = 0, failed = put(s->out, side->part, kept, get32(side->part + 1)))) return failed;
            continue;
        }
        if (!side->length && side->room > KEPT + 5) { PyMem_Free(side->part); side->part = NULL, side->room = 0; }
        int cut = side->length > 0 || left < 5; /* the frame is not in one piece: collect it */
        if (cut && side->length < 5 && (failed = collect(side, &p, end, 5))) return failed < 0 ? 0 : failed;
        const uint8_t *frame = cut ? side->part : p;
        uint8_t kind = frame[0];
        uint32_t size = get32(frame + 1);
        Entry entry = tables[backend][kind];
        if (entry.keep == UNKNOWN) return UNKNOWN_TYPE;
        if (size < 4 || size > LARGE) return BAD_LENGTH;
        if (size > entry.limit) return OVER_LIMIT;
        int row = backend && (kind == 'D' || kind == 'd');
        if (row && s->sampled + (size < ROW ? size : ROW) <= SAMPLED) {
            if (size <= ROW) entry.keep = ROW;
            else if (!s->blind && (kind == 'D' || s->binary)) {
                if (!cut && (failed = collect(side, &p, end, 5))) return failed;
                size_t head = 5 + (kind == 'D' ? 0 : s->lead) + 2 + 4;
                side->want = head, side->left = (uint64_t)size + 1 - head, side->columns = -1, s->lead = 0;
                continue;
            }
        }
        size_t all = size - 4, body = entry.keep < 0 ? 0 : (size_t)entry.keep < all ? entry.keep : all, want = 5 + body;
        if ((cut ? side->length : left) < want) {
            if ((failed = collect(side, &p, end, want))) return failed < 0 ? 0 : failed;
            frame = side->part;
        } else if (!cut) p += want;
        side->length = 0, side->skip = (uint64_t)size + 1 - want;
        if (backend) s->sampled = row ? s->sampled + size : 0;
        if (row) s->lead = 0;
        if (entry.keep == COUNT && !s->blind) failed = count(s->out, &counted, kind, (uint64_t)size + 1);
        if (entry.keep < 0 && !failed) continue;
        if (!failed && !s->blind) { counted = 0; failed = put(s->out, frame, want, size); }
        if (!failed && backend) failed = answer(s, kind, frame + 5, body, done);
        else if (!failed) failed = request(s, kind, frame, want, !side->skip);
        if (failed) return failed;
    }
    return 0;
}
static PyObject *scan_and_pack(State *s, PyObject *chunk, int backend) {
    if (!PyBytes_Check(chunk)) return PyErr_Format(PyExc_TypeError, "a chunk is bytes");
    if (s->off) Py_RETURN_NONE;
    struct timespec now;
    Py_ssize_t start = PyByteArray_GET_SIZE(s->out), size = 0;
    uint8_t *header = s->blind ? NULL : grow(s->out, HEADER);
    int failed = !s->blind && !header ? EXCEPTION : 0;
    long long done = 0;
    if (header && !clock_gettime(CLOCK_MONOTONIC, &now)) {
        header[0] = backend ? 4 : 3, put32(header + 1, s->number);
        put64(header + 5, now.tv_sec * 1000000000ull + now.tv_nsec);
    }
    const uint8_t *data = (uint8_t *)PyBytes_AS_STRING(chunk), *end = data + PyBytes_GET_SIZE(chunk);
    if (!failed) failed = scan(s, backend, data, end, &done);
    if (header) {
        size = PyByteArray_GET_SIZE(s->out) - start - HEADER;
        if (size) put32((uint8_t *)PyByteArray_AS_STRING(s->out) + start + HEADER - 4, size);
        else if (PyByteArray_Resize(s->out, start) < 0) failed = EXCEPTION;
    }
    Side *side = &s->sides[backend];
    if (failed) s->begun += done, side->length = side->want = side->skip = 0;
    else if (!s->blind) s->ended += done;
    PyErr_Clear(); /* an exception is told as one, and never reaches the socket */
    int wake = size && (!start || PyByteArray_GET_SIZE(s->out) >= FLUSH_BYTES);
    if (!(failed || s->blind || wake || PyList_GET_SIZE(s->events)) || !s->notice) Py_RETURN_NONE;
    PyObject *notice = Py_NewRef(s->notice), *result; /* it may close the state */
    result = PyObject_CallFunction(notice, "L", failed ? -(long long)failed : done);
    if (!result) PyErr_WriteUnraisable(notice);
    Py_XDECREF(result), Py_DECREF(notice);
    Py_RETURN_NONE;
}
/* the state's type */
static PyObject *frontend(State *s, PyObject *chunk) { return scan_and_pack(s, chunk, 0); }
static PyObject *backend(State *s, PyObject *chunk) { return scan_and_pack(s, chunk, 1); }
static PyObject *close_state(State *s, PyObject *_) { s->off = 1; Py_CLEAR(s->notice); Py_RETURN_NONE; }
static int is_between(State *s) {
    return !(s->sides[0].length || s->sides[0].skip || s->sides[1].length || s->sides[1].skip);
}
static PyObject *between_messages(State *s, void *_) { return PyBool_FromLong(is_between(s)); }
static PyObject *quiescent(State *s, void *_) {
    return PyBool_FromLong(s->authenticated && s->first == s->last && !s->open && is_between(s));
}
static PyObject *state_new(PyTypeObject *type, PyObject *args, PyObject *_) {
    PyObject *out, *notice, *events;
    int number;
    if (!PyArg_ParseTuple(args, "iO!O", &number, &PyByteArray_Type, &out, &notice)) return NULL;
    State *s = (events = PyList_New(0)) ? (State *)type->tp_alloc(type, 0) : NULL;
    if (!s) { Py_XDECREF(events); return NULL; }
    s->number = number, s->status = 'I', s->out = Py_NewRef(out), s->notice = Py_NewRef(notice), s->events = events;
    return (PyObject *)s;
}
static void state_dealloc(State *s) {
    drop(s, s->last - s->first);
    PyMem_Free(s->pending), PyMem_Free(s->sides[0].part), PyMem_Free(s->sides[1].part);
    Py_XDECREF(s->events), Py_XDECREF(s->out), Py_XDECREF(s->notice);
    Py_TYPE(s)->tp_free((PyObject *)s);
}
static PyMemberDef members[] = {
    {"events", T_OBJECT_EX, offsetof(State, events), READONLY}, {"status", T_UBYTE, offsetof(State, status), READONLY},
    {"begun", T_LONGLONG, offsetof(State, begun)}, {"ended", T_LONGLONG, offsetof(State, ended)},
    {"blind", T_BOOL, offsetof(State, blind)}, {"suspended", T_INT, offsetof(State, suspensions), READONLY},
    {"authenticated", T_BOOL, offsetof(State, authenticated), READONLY}, {NULL},
};
static PyGetSetDef properties[] = {
    {"quiescent", (getter)quiescent}, {"between_messages", (getter)between_messages}, {NULL},
};
static PyMethodDef methods[] = {
    {"frontend", (PyCFunction)frontend, METH_O, NULL}, {"backend", (PyCFunction)backend, METH_O, NULL},
    {"close", (PyCFunction)close_state, METH_NOARGS, NULL}, {NULL},
};
static PyTypeObject StateType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "pgtattle.proxy.wire._frames.State", .tp_basicsize = sizeof(State),
    .tp_flags = Py_TPFLAGS_DEFAULT, .tp_new = state_new, .tp_dealloc = (destructor)state_dealloc,
    .tp_members = members, .tp_getset = properties, .tp_methods = methods,
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_frames", .m_size = -1};
PyMODINIT_FUNC PyInit__frames(void) {
    for (int n = 0; n < 512; n++) tables[n / 256][n % 256].keep = UNKNOWN;
    fill(tables[0], "QP", SQL, LARGE), fill(tables[0], "B", KEPT, LARGE), fill(tables[0], "DECSHcfX", KEPT, 10000), fill(tables[0], "d", COUNT, LARGE);
    fill(tables[0], "p", DROP, 65535), fill(tables[0], "F", 0, LARGE);
    fill(tables[1], "CIEZTtn123sGHWSNAvc", KEPT, LARGE), fill(tables[1], "Dd", COUNT, LARGE);
    fill(tables[1], "RK", 4, LARGE), fill(tables[1], "V", 0, LARGE);
    PyObject *made = PyModule_Create(&module);
    return !made || PyModule_AddType(made, &StateType) < 0 ? NULL : made;
}
