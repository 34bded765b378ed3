/* media/row_memory.py's RowMemory in the compiled build (setup.py): the same numbers, to the bit.
 *
 * One pass over the rows of a batch instead of numpy's sixty calls over all of them: it is little arithmetic, and the
 * code of sixty calls is cold when a batch comes. Thresholds are given by row_memory.py, which says what they are for.
 * No sum depends on its order: all are of whole numbers below 2 ** 53 (or of such numbers over a power of two).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { /* as in row_memory.py and second_look.py */
    STATE = 128,
    REPLAY = 2,
    MOST_WINDOW = 512,
    MOST_CONTEXT = 64,
    BLOCK = 16,
    BLOCKS = 9,
    MEMORY = 10,
    LONGEST = 66, /* lags at 4 kHz */
    LAGS = 57,
    LOOKED_AT = 160,
    LATE = LOOKED_AT - LONGEST,
};

typedef struct {
    double volume, given, level, block, likeness;
    double floors[BLOCKS], voice[MEMORY], air[MEMORY];
    int64_t hush, age, count;
    float state[2][STATE];
    int16_t tail[MOST_CONTEXT + REPLAY * MOST_WINDOW];
} Row;

/* One row of the batch at work. */
typedef struct {
    Row *row;
    PyObject *window; /* bytes, a reference */
    double least, power;
    float gain;
    char asked, fresh;
} Heard;

typedef struct {
    PyObject_HEAD
    Py_ssize_t window, context, capacity;
    Row *rows;
    Heard *batch;
    Py_ssize_t size, room; /* of the batch */
    Py_ssize_t asked, fresh;
    PyObject *gains; /* bytes of floats */
    double shelf[4], lowest_db, highest_db, rise, fall, surely_not, full, level_at_first, level_fall, surely;
    double at_floor, above_murmur, like_speech, likeness_step;
    double air_over_voice, sure, is_voice, is_air, surely_voice, surely_air;
    int hush, forget_after, louder_db;
} Memory;

/* ------------------------------------------------------------------ arithmetic */

static inline void
samples_of(PyObject *window, Py_ssize_t count, int16_t *to)
{
    const unsigned char *pcm = (const unsigned char *)PyBytes_AS_STRING(window);
    for (Py_ssize_t i = 0; i < count; i++)
        to[i] = (int16_t)(pcm[2 * i] | pcm[2 * i + 1] << 8);
}

static double
power_of(const Memory *self, const int16_t *x)
{
    const Py_ssize_t size = self->window;
    int64_t sum = 0, products[4] = {0};
    for (Py_ssize_t i = 0; i < 3; i++) {
        sum += x[i];
        for (Py_ssize_t lag = 0; lag <= i; lag++)
            products[lag] += (int32_t)x[i] * x[i - lag];
    }
    for (Py_ssize_t i = 3; i < size; i++) {
        sum += x[i];
        for (Py_ssize_t lag = 0; lag < 4; lag++)
            products[lag] += (int32_t)x[i] * x[i - lag];
    }
    const double mean = (double)sum / (double)size, square = mean * mean;
    double power = self->shelf[0] * ((double)products[0] / (double)size - square);
    for (Py_ssize_t lag = 1; lag < 4; lag++)
        power += 2 * self->shelf[lag] * ((double)products[lag] / (double)(size - lag) - square);
    return power;
}

static double
loudness(const Memory *self, double power)
{
    if (!(power > 1e-3))
        return 0.0;
    const double volume = (10 * log10(power) - 0.691 - self->lowest_db) / (self->highest_db - self->lowest_db);
    return volume > 1.0 ? 1.0 : volume > 0.0 ? volume : 0.0;
}

static int
gain_db(const Memory *self, double level)
{
    const double missing = self->full - rint(level * 100);
    const double most = (double)(PyBytes_GET_SIZE(self->gains) / (Py_ssize_t)sizeof(float) - 1);
    return (int)(missing < 0 ? 0 : missing > most ? most : missing);
}

/* Samples as they are, where second_look.py has them over 32768. */
static double
periodicity(const int16_t *audio, Py_ssize_t count)
{
    int32_t sums[LOOKED_AT];
    const Py_ssize_t each = count / LOOKED_AT;
    int64_t total = 0;
    for (Py_ssize_t i = 0; i < LOOKED_AT; i++) {
        sums[i] = 0;
        for (Py_ssize_t k = 0; k < each; k++)
            sums[i] += audio[i * each + k];
        total += sums[i];
    }
    const int32_t mean = (int32_t)rint((double)total / LOOKED_AT);
    double x[LOOKED_AT], squares[LOOKED_AT + 1], products[LAGS] = {0};
    squares[0] = 0.0;
    for (Py_ssize_t i = 0; i < LOOKED_AT; i++) {
        x[i] = sums[i] - mean;
        squares[i + 1] = squares[i] + x[i] * x[i];
    }
    for (Py_ssize_t l = 0; l < LATE; l++) {
        const double late = x[LONGEST + l];
        for (Py_ssize_t k = 0; k < LAGS; k++)
            products[k] += x[l + k] * late;
    }
    const double own = squares[LOOKED_AT] - squares[LONGEST], least = 1e-18 * 0x1p60;
    double found = -INFINITY;
    for (Py_ssize_t k = 0; k < LAGS; k++) {
        const double energies = (squares[k + LATE] - squares[k]) * own;
        const double like = products[k] / sqrt(energies > least ? energies : least);
        found = like > found ? like : found;
    }
    return found;
}

static double
most_of(const double *values)
{
    double most = values[0];
    for (int i = 1; i < MEMORY; i++)
        most = values[i] > most ? values[i] : most;
    return most;
}

static int
murmurs(const Memory *self, Row *row, double given, double least)
{
    double floor = row->block;
    for (int i = 0; i < BLOCKS; i++)
        floor = row->floors[i] < floor ? row->floors[i] : floor;
    const int found = row->volume < floor + self->above_murmur && row->likeness > self->like_speech;
    if (row->volume < floor + self->at_floor && row->volume >= least)
        row->likeness += self->likeness_step * (given - row->likeness);
    row->block = row->volume < row->block ? row->volume : row->block;
    if (row->count % BLOCK == BLOCK - 1) {
        row->floors[row->count / BLOCK % BLOCKS] = row->block;
        row->block = 1.0;
    }
    return found;
}

/* `audio`: 40 ms up to the end of the window. */
static int
coughs(const Memory *self, Row *row, double given, double power, double least, const int16_t *audio)
{
    int voice = given >= self->surely_voice, air = given < self->surely_air;
    if (!voice && !air && row->volume >= least) {
        const double repeats = periodicity(audio, self->window * 5 / 4);
        voice = repeats >= self->is_voice;
        air = repeats < self->is_air;
    }
    const int64_t place = row->count % MEMORY;
    row->voice[place] = voice ? power : 0.0;
    row->air[place] = air ? power : 0.0;
    row->count++;
    return given < self->sure && most_of(row->voice) < self->air_over_voice * most_of(row->air);
}

static void
hear_one(Memory *self, Heard *one)
{
    int16_t pcm[MOST_WINDOW];
    Row *row = one->row;

    samples_of(one->window, self->window, pcm);
    one->power = power_of(self, pcm);
    const double heard = loudness(self, one->power);
    row->volume += (heard > row->volume ? self->rise : self->fall) * (heard - row->volume);
    const int gain_before = gain_db(self, row->level);
    const double level = row->given >= self->surely ? row->level - self->level_fall : row->level;
    row->level = heard > level ? heard : level;
    const int gain = gain_db(self, row->level);
    memcpy(&one->gain, PyBytes_AS_STRING(self->gains) + gain * (Py_ssize_t)sizeof(float), sizeof(float));

    const int64_t before = row->hush, age = row->age + 1;
    row->hush = row->volume < one->least ? before + 1 : 0;
    one->asked = row->hush <= self->hush;
    const int forgets = before > self->hush || (age > self->forget_after && row->given < self->surely_not) ||
                        gain_before - gain >= self->louder_db;
    one->fresh = one->asked && forgets;
    row->age = one->fresh ? 0 : age;
    self->asked += one->asked;
    self->fresh += one->fresh;
}

/* Gives the confidence that remains of what the network gave. */
static double
judge_one(const Memory *self, Heard *one, double given)
{
    const Py_ssize_t window = self->window, tail = self->context + REPLAY * window, more = window / 4;
    int16_t audio[MOST_WINDOW + MOST_WINDOW / 4];
    Row *row = one->row;

    memcpy(audio, row->tail + tail - more, (size_t)more * sizeof(int16_t));
    samples_of(one->window, window, audio + more);
    memmove(row->tail, row->tail + window, (size_t)(tail - window) * sizeof(int16_t));
    memcpy(row->tail + tail - window, audio + more, (size_t)window * sizeof(int16_t));
    row->given = given;
    const int murmur = murmurs(self, row, given, one->least);
    const int cough = coughs(self, row, given, one->power, one->least, audio);
    return murmur || cough ? given * 0.5 : given;
}

/* ------------------------------------------------------------------ what Python calls */

static void
drop_batch(Memory *self)
{
    while (self->size > 0) {
        self->size--;
        Py_DECREF(self->batch[self->size].window);
    }
    self->asked = self->fresh = 0;
}

static void
forget(Memory *self, Py_ssize_t slot)
{
    Row *row = self->rows + slot;
    memset(row, 0, sizeof *row);
    row->level = self->level_at_first;
    row->block = 1.0;
}

static int
Memory_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "window", "context", "capacity", "shelf", "lowest_db", "highest_db", "volume_rise", "volume_fall", "hush",
        "forget_after", "surely_not", "full", "gains", "level_at_first", "level_fall", "surely", "louder_db",
        "at_floor", "above_murmur", "like_speech", "likeness_step", "air_over_voice", "sure", "is_voice", "is_air",
        "surely_voice", "surely_air", NULL,
    };
    Memory *self = (Memory *)object;
    PyObject *gains;

    if (self->rows != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "made once already");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "nnn$(dddd)ddddiiddSdddidddddddddd", names, &self->window, &self->context, &self->capacity,
            &self->shelf[0], &self->shelf[1], &self->shelf[2], &self->shelf[3], &self->lowest_db, &self->highest_db,
            &self->rise, &self->fall, &self->hush, &self->forget_after, &self->surely_not, &self->full, &gains,
            &self->level_at_first, &self->level_fall, &self->surely, &self->louder_db, &self->at_floor,
            &self->above_murmur, &self->like_speech, &self->likeness_step, &self->air_over_voice, &self->sure,
            &self->is_voice, &self->is_air, &self->surely_voice, &self->surely_air))
        return -1;
    if ((self->window != MOST_WINDOW && self->window != MOST_WINDOW / 2) || self->context < 0 ||
        self->context > MOST_CONTEXT || self->capacity < 1 || PyBytes_GET_SIZE(gains) < (Py_ssize_t)sizeof(float)) {
        PyErr_SetString(PyExc_ValueError, "no such rows");
        return -1;
    }
    self->rows = PyMem_Calloc((size_t)self->capacity, sizeof(Row));
    if (self->rows == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->gains = Py_NewRef(gains);
    for (Py_ssize_t slot = 0; slot < self->capacity; slot++)
        forget(self, slot);
    return 0;
}

static void
Memory_dealloc(PyObject *object)
{
    Memory *self = (Memory *)object;
    PyTypeObject *type = Py_TYPE(object);
    drop_batch(self);
    PyMem_Free(self->batch);
    PyMem_Free(self->rows);
    Py_XDECREF(self->gains);
    type->tp_free(object);
    Py_DECREF(type);
}

static Row *
row_of(Memory *self, PyObject *slot)
{
    const Py_ssize_t number = PyNumber_AsSsize_t(slot, PyExc_IndexError);
    if (number < 0 || number >= self->capacity) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_IndexError, "no such slot");
        return NULL;
    }
    return self->rows + number;
}

static PyObject *
Memory_forget(PyObject *object, PyObject *slot)
{
    Memory *self = (Memory *)object;
    const Row *row = row_of(self, slot);
    if (row == NULL)
        return NULL;
    forget(self, row - self->rows);
    Py_RETURN_NONE;
}

static PyObject *
Memory_grow(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Memory *self = (Memory *)object;
    drop_batch(self); /* it looks into the rows */
    Row *rows = PyMem_Realloc(self->rows, 2 * (size_t)self->capacity * sizeof(Row));
    if (rows == NULL)
        return PyErr_NoMemory();
    self->rows = rows;
    self->capacity *= 2;
    for (Py_ssize_t slot = self->capacity / 2; slot < self->capacity; slot++)
        forget(self, slot);
    Py_RETURN_NONE;
}

static int
take(Memory *self, PyObject *slot, PyObject *window, PyObject *least)
{
    Heard *one = self->batch + self->size;
    one->row = row_of(self, slot);
    if (one->row == NULL)
        return -1;
    one->least = PyFloat_AsDouble(least);
    if (one->least == -1.0 && PyErr_Occurred())
        return -1;
    if (!PyBytes_Check(window) || PyBytes_GET_SIZE(window) != 2 * self->window) {
        PyErr_Format(PyExc_ValueError, "a window is %zd bytes", 2 * self->window);
        return -1;
    }
    one->window = Py_NewRef(window);
    self->size++;
    return 0;
}

static int
take_all(Memory *self, PyObject *slots, PyObject *windows, PyObject *least)
{
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(slots);
    if (PySequence_Fast_GET_SIZE(windows) != size || PySequence_Fast_GET_SIZE(least) != size) {
        PyErr_SetString(PyExc_ValueError, "as many windows and least volumes as slots are needed");
        return -1;
    }
    if (size > self->room) {
        Heard *batch = PyMem_Realloc(self->batch, (size_t)size * sizeof(Heard));
        if (batch == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->batch = batch;
        self->room = size;
    }
    for (Py_ssize_t i = 0; i < size; i++)
        if (take(self, PySequence_Fast_GET_ITEM(slots, i), PySequence_Fast_GET_ITEM(windows, i),
                 PySequence_Fast_GET_ITEM(least, i)) < 0)
            return -1;
    return 0;
}

static PyObject *
Memory_hear(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Memory *self = (Memory *)object;
    PyObject *given[3] = {NULL, NULL, NULL};
    int taken = -1;

    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "hear(slots, windows, least) takes three sequences");
        return NULL;
    }
    drop_batch(self);
    int read = 0;
    while (read < 3 && (given[read] = PySequence_Fast(args[read], "not a sequence")) != NULL)
        read++;
    if (read == 3)
        taken = take_all(self, given[0], given[1], given[2]);
    for (int i = 0; i < 3; i++)
        Py_XDECREF(given[i]);
    if (taken < 0) {
        drop_batch(self);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < self->size; i++)
        hear_one(self, self->batch + i);
    return Py_BuildValue("nn", self->asked, self->fresh);
}

/* Floats, `count` of them; 0 and an exception: something else. */
static int
floats_of(PyObject *object, Py_buffer *view, int flags, Py_ssize_t count)
{
    if (PyObject_GetBuffer(object, view, flags) < 0)
        return 0;
    if (view->len == count * (Py_ssize_t)sizeof(float))
        return 1;
    PyErr_Format(PyExc_ValueError, "%zd bytes, and %zd floats are needed", view->len, count);
    PyBuffer_Release(view);
    return 0;
}

static void
amplify(const int16_t *samples, Py_ssize_t count, float gain, float *to)
{
    for (Py_ssize_t i = 0; i < count; i++)
        to[i] = samples[i] * gain;
}

static PyObject *
Memory_earlier(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Memory *self = (Memory *)object;
    Py_buffer audio;
    const Py_ssize_t turn = count == 2 ? PyNumber_AsSsize_t(args[0], PyExc_IndexError) : -1;
    const Py_ssize_t size = self->context + self->window;
    if (turn < 0 || turn >= REPLAY) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "earlier(turn, audio) takes the number of a replayed window, and an array");
        return NULL;
    }
    if (!floats_of(args[1], &audio, PyBUF_CONTIG, self->fresh * size))
        return NULL;
    float *to = audio.buf;
    for (Py_ssize_t i = 0; i < self->size; i++)
        if (self->batch[i].fresh) {
            amplify(self->batch[i].row->tail + turn * self->window, size, self->batch[i].gain, to);
            to += size;
        }
    PyBuffer_Release(&audio);
    Py_RETURN_NONE;
}

/* The states of some rows lie in two planes there, [2, count, STATE]. */
static void
put_state(Row *row, const float *planes, Py_ssize_t place, Py_ssize_t count)
{
    memcpy(row->state[0], planes + place * STATE, sizeof row->state[0]);
    memcpy(row->state[1], planes + (count + place) * STATE, sizeof row->state[1]);
}

static PyObject *
Memory_begin(PyObject *object, PyObject *planes)
{
    Memory *self = (Memory *)object;
    Py_buffer state;
    if (!floats_of(planes, &state, PyBUF_CONTIG_RO, 2 * self->fresh * STATE))
        return NULL;
    Py_ssize_t place = 0;
    for (Py_ssize_t i = 0; i < self->size; i++)
        if (self->batch[i].fresh)
            put_state(self->batch[i].row, state.buf, place++, self->fresh);
    PyBuffer_Release(&state);
    Py_RETURN_NONE;
}

static PyObject *
Memory_show(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Memory *self = (Memory *)object;
    const Py_ssize_t context = self->context, window = self->window, tail = context + REPLAY * window;
    Py_buffer audio, state;
    int16_t pcm[MOST_WINDOW];

    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "show(audio, state) takes two arrays");
        return NULL;
    }
    if (!floats_of(args[0], &audio, PyBUF_CONTIG, self->asked * (context + window)))
        return NULL;
    if (!floats_of(args[1], &state, PyBUF_CONTIG, 2 * self->asked * STATE)) {
        PyBuffer_Release(&audio);
        return NULL;
    }
    float *heard = audio.buf, *hidden = state.buf, *cell = hidden + self->asked * STATE;
    for (Py_ssize_t i = 0; i < self->size; i++) {
        const Heard *one = self->batch + i;
        if (!one->asked)
            continue;
        samples_of(one->window, window, pcm);
        amplify(one->row->tail + tail - context, context, one->gain, heard);
        amplify(pcm, window, one->gain, heard + context);
        memcpy(hidden, one->row->state[0], sizeof one->row->state[0]);
        memcpy(cell, one->row->state[1], sizeof one->row->state[1]);
        heard += context + window;
        hidden += STATE;
        cell += STATE;
    }
    PyBuffer_Release(&state);
    PyBuffer_Release(&audio);
    Py_RETURN_NONE;
}

static PyObject *
Memory_judge(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Memory *self = (Memory *)object;
    Py_buffer given, state;

    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "judge(given, state) takes two arrays");
        return NULL;
    }
    if (!floats_of(args[0], &given, PyBUF_CONTIG_RO, self->asked))
        return NULL;
    if (!floats_of(args[1], &state, PyBUF_CONTIG_RO, 2 * self->asked * STATE)) {
        PyBuffer_Release(&given);
        return NULL;
    }
    PyObject *confidences = PyList_New(self->size), *volumes = PyList_New(self->size), *both = NULL;
    Py_ssize_t place = 0;
    for (Py_ssize_t i = 0; confidences != NULL && volumes != NULL && i < self->size; i++) {
        Heard *one = self->batch + i;
        double confidence = 0.0;
        if (one->asked) {
            confidence = (double)((const float *)given.buf)[place];
            put_state(one->row, state.buf, place++, self->asked);
        }
        PyObject *left = PyFloat_FromDouble(judge_one(self, one, confidence));
        PyObject *volume = PyFloat_FromDouble(one->row->volume);
        if (left == NULL)
            Py_CLEAR(confidences);
        else
            PyList_SET_ITEM(confidences, i, left);
        if (volume == NULL)
            Py_CLEAR(volumes);
        else
            PyList_SET_ITEM(volumes, i, volume);
    }
    if (confidences != NULL && volumes != NULL)
        both = PyTuple_Pack(2, confidences, volumes);
    Py_XDECREF(confidences);
    Py_XDECREF(volumes);
    PyBuffer_Release(&state);
    PyBuffer_Release(&given);
    drop_batch(self);
    return both;
}

static PyMethodDef methods[] = {
    {"forget", Memory_forget, METH_O, NULL},
    {"grow", Memory_grow, METH_NOARGS, NULL},
    {"hear", (PyCFunction)(void (*)(void))Memory_hear, METH_FASTCALL, NULL},
    {"earlier", (PyCFunction)(void (*)(void))Memory_earlier, METH_FASTCALL, NULL},
    {"begin", Memory_begin, METH_O, NULL},
    {"show", (PyCFunction)(void (*)(void))Memory_show, METH_FASTCALL, NULL},
    {"judge", (PyCFunction)(void (*)(void))Memory_judge, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "media/row_memory.py's RowMemory, which says what each method does."},
    {Py_tp_init, Memory_init},
    {Py_tp_dealloc, Memory_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "media.rows.RowMemory",
    .basicsize = sizeof(Memory),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static int
fill(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    const int failed = type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot steps[] = {
    {Py_mod_exec, fill},
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "media.rows",
    .m_doc = "What is remembered of each call that a voice detector listens to.",
    .m_size = 0,
    .m_slots = steps,
};

PyMODINIT_FUNC
PyInit_rows(void)
{
    return PyModuleDef_Init(&definition);
}
