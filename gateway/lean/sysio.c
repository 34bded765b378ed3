/* Many sockets read in one look, and one written to, with nothing between the kernel and its caller: for
 * gateway/lean/rounds.py in the compiled build (setup.py), where there is epoll.
 *
 * Nothing here blocks, so the GIL is kept.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum {
    LOOK = 1024,  /* sockets in one look; those beyond come first in the next */
    ROOM = 65536, /* bytes of one socket in one look */
};

#define EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)
#define GONE (EPOLLRDHUP | EPOLLHUP | EPOLLERR)

static char room[ROOM];

static int
number_of(PyObject *object)
{
    const long number = PyLong_AsLong(object);
    if (number < 0 || number > INT_MAX) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "not the number of an open file");
        return -1;
    }
    return (int)number;
}

static int
wants(PyObject *const *args, Py_ssize_t count, const char *form)
{
    if (count == 2)
        return 1;
    PyErr_Format(PyExc_TypeError, "%s takes two arguments", form);
    return 0;
}

/* What is there: a new reference to bytes, to None for what the event loop shall see to, or NULL: nothing, or an
 * exception. */
static PyObject *
take(int epoll, const struct epoll_event *event)
{
    if (event->events & GONE)
        return Py_NewRef(Py_None); /* what was said before that is still to be read */
    const ssize_t size = recv(event->data.fd, room, ROOM, MSG_DONTWAIT);
    if (size > 0) {
        if (size == ROOM) { /* there may be more, of which the kernel would not tell again */
            struct epoll_event again = {.events = EVENTS, .data.fd = event->data.fd};
            if (epoll_ctl(epoll, EPOLL_CTL_MOD, event->data.fd, &again) < 0)
                return PyErr_SetFromErrno(PyExc_OSError);
        }
        return PyBytes_FromStringAndSize(room, size);
    }
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return NULL;
    return Py_NewRef(Py_None);
}

static PyObject *
sysio_watch(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (!wants(args, count, "watch(epoll, socket)"))
        return NULL;
    const int epoll = number_of(args[0]), number = number_of(args[1]);
    if (PyErr_Occurred())
        return NULL;
    struct epoll_event event = {.events = EVENTS, .data.fd = number};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, number, &event) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *
sysio_read(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    struct epoll_event events[LOOK];

    if (!wants(args, count, "read(epoll, members)"))
        return NULL;
    const int epoll = number_of(args[0]);
    if (PyErr_Occurred())
        return NULL;
    if (!PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "members is not a dict");
        return NULL;
    }
    const int found = epoll_wait(epoll, events, LOOK, 0);
    if (found < 0 && errno != EINTR)
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *all = PyList_New(0);
    for (int place = 0; all != NULL && place < found; place++) {
        PyObject *number = PyLong_FromLong(events[place].data.fd);
        PyObject *member = number == NULL ? NULL : PyDict_GetItemWithError(args[1], number); /* borrowed */
        Py_XDECREF(number);
        PyObject *data = member == NULL ? NULL : take(epoll, &events[place]);
        PyObject *pair = data == NULL ? NULL : PyTuple_Pack(2, member, data);
        Py_XDECREF(data);
        if (pair != NULL)
            PyList_Append(all, pair);
        Py_XDECREF(pair);
        if (PyErr_Occurred())
            Py_CLEAR(all);
    }
    return all;
}

static PyObject *
sysio_send(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    char *data;
    Py_ssize_t size;

    if (!wants(args, count, "send(socket, data)"))
        return NULL;
    const int number = number_of(args[0]);
    if (PyErr_Occurred() || PyBytes_AsStringAndSize(args[1], &data, &size) < 0)
        return NULL;
    const ssize_t sent = send(number, data, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return PyLong_FromSsize_t(sent < 0 ? 0 : sent);
}

static PyMethodDef methods[] = {
    {"watch", (PyCFunction)(void (*)(void))sysio_watch, METH_FASTCALL,
     "watch(epoll, socket, /)\n--\n\nLet `read` look at it from now on. Raises OSError."},
    {"read", (PyCFunction)(void (*)(void))sysio_read, METH_FASTCALL,
     "read(epoll, members, /)\n--\n\n"
     "(member, what came) of each socket that has something; None came: see what has become of it.\n\n"
     "`members` has them by the numbers of their sockets."},
    {"send", (PyCFunction)(void (*)(void))sysio_send, METH_FASTCALL,
     "send(socket, data, /)\n--\n\nHow many bytes of it the socket took; 0: none now, or never any more."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "gateway.lean.sysio",
    .m_doc = "Many sockets read in one look, and one written to.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit_sysio(void)
{
    return PyModuleDef_Init(&definition);
}
