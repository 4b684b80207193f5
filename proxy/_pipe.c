/* What a socket's bytes go through, compiled: the twin of pipe.py. The interpreter is not entered for a chunk. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *write, *look;
    long long bytes;
} Pipe;

static PyObject *pipe_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *names) {
    Pipe *pipe = (Pipe *)self;
    if (PyVectorcall_NARGS(nargsf) != 1 || names) return PyErr_Format(PyExc_TypeError, "a pipe takes one chunk");
    PyObject *chunk = args[0], *result = PyObject_CallOneArg(pipe->write, chunk);
    if (!result) return NULL;
    Py_DECREF(result);
    Py_ssize_t size = PyObject_Size(chunk);
    if (size < 0) return NULL;
    pipe->bytes += size;
    if (pipe->look == Py_None) Py_RETURN_NONE;
    return PyObject_CallOneArg(pipe->look, chunk);
}

static PyObject *pipe_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *write, *look;
    if (!PyArg_ParseTuple(args, "OO", &write, &look)) return NULL;
    Pipe *pipe = (Pipe *)type->tp_alloc(type, 0);
    if (!pipe) return NULL;
    pipe->call = pipe_call;
    pipe->write = Py_NewRef(write);
    pipe->look = Py_NewRef(look);
    return (PyObject *)pipe;
}

static int pipe_traverse(Pipe *pipe, visitproc visit, void *arg) {
    Py_VISIT(pipe->write);
    Py_VISIT(pipe->look);
    return 0;
}

static int pipe_clear(Pipe *pipe) {
    Py_CLEAR(pipe->write);
    Py_CLEAR(pipe->look);
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
