/* What a socket's bytes go through, compiled: the twin of pipe.py. The interpreter is not entered for a chunk.
 * A chunk is sent at once where nothing waits before it: uvloop's transports queue what is written, and send it only
 * when everything else of the turn is done. What the socket does not take goes to the transport, and so do errors. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <sys/socket.h>
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* Python ignores SIGPIPE */
#endif

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *write, *look, *is_closing, *waiting; /* methods of the transport but for `look` */
    long long bytes;
    int fd; /* -1: not a plain socket */
} Pipe;

static int is_zero(PyObject *method) { /* calls it; 0 for an error too */
    PyObject *result = PyObject_CallNoArgs(method);
    int truth = result ? PyObject_IsTrue(result) : -1;
    Py_XDECREF(result);
    if (truth < 0) PyErr_Clear();
    return truth == 0;
}

static Py_ssize_t send_now(Pipe *pipe, PyObject *chunk) { /* bytes that the socket took */
    /* A closing transport's descriptor may be another connection's already. */
    if (pipe->fd < 0 || !PyBytes_CheckExact(chunk) || !is_zero(pipe->is_closing) || !is_zero(pipe->waiting)) return 0;
    ssize_t sent = send(pipe->fd, PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk), MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? 0 : sent;
}

static int write_rest(Pipe *pipe, PyObject *chunk, Py_ssize_t sent) {
    PyObject *rest = sent ? PySequence_GetSlice(chunk, sent, PY_SSIZE_T_MAX) : Py_NewRef(chunk);
    PyObject *result = rest ? PyObject_CallOneArg(pipe->write, rest) : NULL;
    Py_XDECREF(rest), Py_XDECREF(result);
    return result ? 0 : -1;
}

static PyObject *pipe_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *names) {
    Pipe *pipe = (Pipe *)self;
    if (PyVectorcall_NARGS(nargsf) != 1 || names) return PyErr_Format(PyExc_TypeError, "a pipe takes one chunk");
    PyObject *chunk = args[0];
    Py_ssize_t size = PyObject_Size(chunk), sent = size < 0 ? 0 : send_now(pipe, chunk);
    if (size < 0 || ((sent < size || !size) && write_rest(pipe, chunk, sent) < 0)) return NULL;
    pipe->bytes += size;
    if (pipe->look == Py_None) Py_RETURN_NONE;
    return PyObject_CallOneArg(pipe->look, chunk);
}

static int descriptor(PyObject *transport) { /* of a plain socket; -1 for others, -2 with an exception */
    PyObject *context = PyObject_CallMethod(transport, "get_extra_info", "s", "sslcontext"), *number = NULL;
    PyObject *socket = context == Py_None ? PyObject_CallMethod(transport, "get_extra_info", "s", "socket") : NULL;
    if (socket && socket != Py_None) number = PyObject_CallMethod(socket, "fileno", NULL);
    int fd = number ? (int)PyLong_AsLong(number) : -1;
    Py_XDECREF(context), Py_XDECREF(socket), Py_XDECREF(number);
    return PyErr_Occurred() ? -2 : fd;
}

static PyObject *pipe_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *transport, *look;
    if (!PyArg_ParseTuple(args, "OO", &transport, &look)) return NULL;
    Pipe *pipe = (Pipe *)type->tp_alloc(type, 0);
    if (!pipe) return NULL;
    pipe->call = pipe_call;
    pipe->look = Py_NewRef(look);
    pipe->write = PyObject_GetAttrString(transport, "write");
    pipe->is_closing = PyObject_GetAttrString(transport, "is_closing");
    pipe->waiting = PyObject_GetAttrString(transport, "get_write_buffer_size");
    pipe->fd = pipe->write && pipe->is_closing && pipe->waiting ? descriptor(transport) : -2;
    if (pipe->fd == -2) Py_CLEAR(pipe);
    return (PyObject *)pipe;
}

static int pipe_traverse(Pipe *pipe, visitproc visit, void *arg) {
    Py_VISIT(pipe->write);
    Py_VISIT(pipe->look);
    Py_VISIT(pipe->is_closing);
    Py_VISIT(pipe->waiting);
    return 0;
}

static int pipe_clear(Pipe *pipe) {
    Py_CLEAR(pipe->write);
    Py_CLEAR(pipe->look);
    Py_CLEAR(pipe->is_closing);
    Py_CLEAR(pipe->waiting);
    return 0;
}

static void pipe_dealloc(Pipe *pipe) {
    PyObject_GC_UnTrack(pipe);
    pipe_clear(pipe);
    Py_TYPE(pipe)->tp_free((PyObject *)pipe);
}

static PyMemberDef members[] = {{"bytes", T_LONGLONG, offsetof(Pipe, bytes), READONLY, NULL}, {NULL}};
static PyTypeObject PipeType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "pgtattle.proxy._pipe.Pipe", .tp_basicsize = sizeof(Pipe),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, .tp_new = pipe_new,
    .tp_dealloc = (destructor)pipe_dealloc, .tp_traverse = (traverseproc)pipe_traverse, .tp_clear = (inquiry)pipe_clear,
    .tp_call = PyVectorcall_Call, .tp_vectorcall_offset = offsetof(Pipe, call), .tp_members = members,
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_pipe", .m_size = -1};

PyMODINIT_FUNC PyInit__pipe(void) {
    PyObject *made = PyModule_Create(&module);
    if (!made || PyType_Ready(&PipeType) < 0) return NULL;
    return PyModule_AddObjectRef(made, "Pipe", (PyObject *)&PipeType) < 0 ? NULL : made;
}
