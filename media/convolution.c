/* The product of media/resample.py's filter and a stream's samples, in the compiled build (setup.py).
 *
 * One call instead of numpy's seven, none of which does much: between two packets of a call their code has grown cold.
 * Every sum is exact in double precision (media/resample.py says why), so its order does not matter, and the result has
 * the bits that numpy's has.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum {
    BLOCK = 32,   /* sums side by side: they stay in registers, and hide how long each addition takes */
    ROOM = 4096,  /* samples as doubles, on the stack */
    MOST = 12,    /* `up` or `down`, at most */
};

/* Added to a double of 16 bits and then some, it leaves the nearest whole number in the lowest bits, halves to even. */
static const double ROUND = 6755399441055744.0;

/* 2, 4 or 8 doubles at a time, as the processor has them. */
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define HAS_WIDE 1
#define INLINE static inline __attribute__((always_inline))
#else
#define HAS_WIDE 0
#define INLINE static inline
#endif

typedef struct {
    const double *taps;
    Py_ssize_t count, history;
    int up, down;
} Filter;

/* `groups * up` samples out of `history + groups * down`. */
INLINE void
convolve_by_blocks(const Filter *filter, const unsigned char *pcm, Py_ssize_t groups, unsigned char *out)
{
    const int up = filter->up, down = filter->down;
    const Py_ssize_t most = ((ROOM - filter->history) / down - 2 * BLOCK - 2) / BLOCK * BLOCK;
    double samples[ROOM];

    while (groups > 0) {
        const Py_ssize_t now = groups < most ? groups : most;
        const Py_ssize_t size = filter->history + now * down;
        /* Each `down`-th sample in a column of its own, so that those of neighbouring outputs are neighbours. */
        const Py_ssize_t column = (now + BLOCK - 1) / BLOCK * BLOCK + filter->history / down + 1;
        for (int place = 0; place < down; place++) {
            double *to = samples + place * column, *end = to + column;
            for (Py_ssize_t at = place; at < size; at += down)
                *to++ = (int16_t)(pcm[2 * at] | pcm[2 * at + 1] << 8);
            while (to < end)
                *to++ = 0.0;
        }
        for (int turn = 0; turn < up; turn++) {
            const int ahead = down * turn + down - 1; /* of the group's begin, in steps of the common rate */
            const Py_ssize_t newest = filter->history + ahead / up;
            for (Py_ssize_t group = 0; group < now; group += BLOCK) {
                double sums[BLOCK] = {0};
                int place = (int)(newest % down);
                const double *from = samples + place * column + newest / down + group;
                for (Py_ssize_t tap = ahead % up; tap < filter->count; tap += up) {
                    const double weight = filter->taps[tap];
                    for (int i = 0; i < BLOCK; i++)
                        sums[i] += weight * from[i];
                    from -= column; /* one sample earlier */
                    if (place-- == 0) {
                        place = down - 1;
                        from += down * column - 1;
                    }
                }
                int16_t rounded[BLOCK];
                for (int i = 0; i < BLOCK; i++) {
                    double sum = sums[i] > 32767.0 ? 32767.0 : sums[i];
                    sum = (sum < -32768.0 ? -32768.0 : sum) + ROUND;
                    int64_t bits;
                    memcpy(&bits, &sum, sizeof bits);
                    rounded[i] = (int16_t)bits;
                }
                const Py_ssize_t left = now - group < BLOCK ? now - group : BLOCK;
                unsigned char *to = out + 2 * (group * up + turn);
                for (Py_ssize_t i = 0; i < left; i++, to += 2 * up) {
                    to[0] = (unsigned char)rounded[i];
                    to[1] = (unsigned char)((uint16_t)rounded[i] >> 8);
                }
            }
        }
        pcm += 2 * now * down;
        out += 2 * now * up;
        groups -= now;
    }
}

typedef void (*Convolve)(const Filter *, const unsigned char *, Py_ssize_t, unsigned char *);

static void
convolve_anywhere(const Filter *filter, const unsigned char *pcm, Py_ssize_t groups, unsigned char *out)
{
    convolve_by_blocks(filter, pcm, groups, out);
}

#if HAS_WIDE
__attribute__((target("avx2,fma"))) static void
convolve_wide(const Filter *filter, const unsigned char *pcm, Py_ssize_t groups, unsigned char *out)
{
    convolve_by_blocks(filter, pcm, groups, out);
}
#endif

static Convolve chosen = convolve_anywhere;

static PyObject *
convolve(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (nargs != 5 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "convolve(data: bytes, taps: bytes, up: int, down: int, history: int)");
        return NULL;
    }
    const long up = PyLong_AsLong(args[2]), down = PyLong_AsLong(args[3]), history = PyLong_AsLong(args[4]);
    if (PyErr_Occurred())
        return NULL;
    const Py_ssize_t count = PyBytes_GET_SIZE(args[1]) / (Py_ssize_t)sizeof(double);
    /* What the last sample of a group looks back to is there, and not more of it than there is room for. */
    if (up < 1 || up > MOST || down < 1 || down > MOST || history < 0 || history > ROOM / 4 ||
        count < down || (count - down) / up > history) {
        PyErr_SetString(PyExc_ValueError, "no such filter");
        return NULL;
    }
    const Filter filter = {(const double *)PyBytes_AS_STRING(args[1]), count, history, (int)up, (int)down};
    const Py_ssize_t fresh = PyBytes_GET_SIZE(args[0]) / 2 - history;
    const Py_ssize_t groups = fresh > 0 ? fresh / down : 0;
    PyObject *out = PyBytes_FromStringAndSize(NULL, 2 * groups * up);
    if (out != NULL)
        chosen(&filter, (const unsigned char *)PyBytes_AS_STRING(args[0]), groups, (unsigned char *)PyBytes_AS_STRING(out));
    return out;
}

static PyMethodDef methods[] = {
    {"convolve", (PyCFunction)(void (*)(void))convolve, METH_FASTCALL,
     "convolve(data, taps, up, down, history)\n--\n\n"
     "The filtered samples of `data`, s16le; its first `history` samples are those before.\n\n"
     "`taps` are doubles, at the rate that is `up` times the one of `data` and `down` times the one that comes out."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "media.convolution",
    .m_doc = "The product of media/resample.py's filter and a stream's samples.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit_convolution(void)
{
#if HAS_WIDE
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        chosen = convolve_wide;
#endif
    return PyModuleDef_Init(&definition);
}
