// The entry of libFuzzer: a Python interpreter, and in it the target that FUZZ_TARGET names.
//
// The extensions of archivestream that the interpreter loads are instrumented, so that what happens in them guides the
// fuzzer. An exception that a target lets through ends the process, with its traceback.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

namespace {

PyObject *run;     // (memoryview) -> None
PyObject *mutate;  // (bytes, most bytes, seed) -> bytes

[[noreturn]] void fail() {
    PyErr_Print();
    std::fflush(stderr);
    std::abort();
}

PyObject *mutate_bytes(PyObject *, PyObject *args) {
    const char *data;
    Py_ssize_t size, most;
    if (!PyArg_ParseTuple(args, "y#n", &data, &size, &most)) return nullptr;
    if (most < 1 || size > most) return PyErr_Format(PyExc_ValueError, "%zd bytes are more than %zd", size, most);
    PyObject *made = PyBytes_FromStringAndSize(nullptr, most);
    if (!made) return nullptr;
    char *bytes = PyBytes_AS_STRING(made);
    for (Py_ssize_t i = 0; i < size; i++) bytes[i] = data[i];
    size = static_cast<Py_ssize_t>(LLVMFuzzerMutate(reinterpret_cast<uint8_t *>(bytes), size, most));
    _PyBytes_Resize(&made, size);
    return made;
}

PyMethodDef mutate_method = {"mutate", mutate_bytes, METH_VARARGS, "LLVMFuzzerMutate"};

}  // namespace

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;  // those of libFuzzer save what it was that crashed
    // The virtual environment of the Python that has started this.
    PyStatus status = PyConfig_SetBytesString(&config, &config.program_name, std::getenv("FUZZ_PYTHON"));
    if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) Py_ExitStatusException(status);
    PyObject *library = PyCFunction_New(&mutate_method, nullptr);
    PyObject *module = library ? PyImport_ImportModule("fuzz.embedded") : nullptr;
    PyObject *pair = module ? PyObject_CallMethod(module, "find", "sO", std::getenv("FUZZ_TARGET"), library) : nullptr;
    if (!pair || !PyArg_ParseTuple(pair, "OO", &run, &mutate)) fail();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    // A view, not a copy: a byte read behind it is one behind the end of an allocation.
    char *bytes = reinterpret_cast<char *>(const_cast<uint8_t *>(data));
    PyObject *view = PyMemoryView_FromMemory(bytes, static_cast<Py_ssize_t>(size), PyBUF_READ);
    PyObject *done = view ? PyObject_CallOneArg(run, view) : nullptr;
    if (!done) fail();
    Py_DECREF(done);
    Py_DECREF(view);
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    PyObject *made = PyObject_CallFunction(mutate, "y#nI", data, static_cast<Py_ssize_t>(size),
                                           static_cast<Py_ssize_t>(max_size), seed);
    if (!made || !PyBytes_Check(made)) fail();
    size_t count = static_cast<size_t>(PyBytes_GET_SIZE(made));
    if (count > max_size) count = max_size;
    for (size_t i = 0; i < count; i++) data[i] = static_cast<uint8_t>(PyBytes_AS_STRING(made)[i]);
    Py_DECREF(made);
    return count;
}
