/* Runs the SavedModel's signatures with nothing but TensorFlow's C API.
 *
 *   embed_wav SAVED_MODEL_DIR INPUT_OP EMBEDDING_OP:INDEX NUM_EXAMPLES_OP:INDEX FILE.wav
 *       prints the number of examples, then their embeddings, one per line.
 *   embed_wav SAVED_MODEL_DIR --rank3 INPUT_OP OUTPUT_OP:INDEX
 *       feeds a waveform with an extra axis, [1, 16000, 1].
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

enum { EMBEDDING_SIZE = 128 };

struct model {
    TF_Graph *graph;
    TF_Session *session;
};

/* TensorFlow's messages may have several lines; callers expect one. */
static void check(const TF_Status *status) {
    if (TF_GetCode(status) == TF_OK) return;
    fprintf(stderr, "TensorFlow error %d: ", (int)TF_GetCode(status));
    for (const char *c = TF_Message(status); *c; ++c) fputc(*c == '\n' ? ' ' : *c, stderr);
    fputc('\n', stderr);
    exit(1);
}

static void fail(const char *problem, const char *name) {
    fprintf(stderr, "%s: %s\n", problem, name);
    exit(1);
}

static struct model load(const char *folder) {
    const char *tags[] = {"serve"};
    TF_Status *status = TF_NewStatus();
    TF_SessionOptions *options = TF_NewSessionOptions();
    struct model model = {.graph = TF_NewGraph()};
    model.session = TF_LoadSessionFromSavedModel(options, NULL, folder, tags, 1, model.graph, NULL, status);
    check(status);
    TF_DeleteSessionOptions(options);
    TF_DeleteStatus(status);
    return model;
}

static void unload(struct model model) {
    TF_Status *status = TF_NewStatus();
    TF_DeleteSession(model.session, status);
    check(status);
    TF_DeleteGraph(model.graph);
    TF_DeleteStatus(status);
}

/* "name:index"; without an index, the operation's first output. */
static TF_Output find(const struct model *model, const char *name) {
    const char *colon = strrchr(name, ':');
    size_t length = colon ? (size_t)(colon - name) : strlen(name);
    char *operation = calloc(length + 1, 1);
    if (!operation) fail("out of memory for", name);
    memcpy(operation, name, length);
    TF_Output output = {TF_GraphOperationByName(model->graph, operation), colon ? atoi(colon + 1) : 0};
    free(operation);
    if (!output.oper) fail("the graph has no operation with this name", name);
    return output;
}

static void run(const struct model *model, TF_Output input, TF_Tensor *value, const TF_Output *outputs,
                TF_Tensor **results, int count) {
    TF_Status *status = TF_NewStatus();
    TF_SessionRun(model->session, NULL, &input, &value, 1, outputs, results, count, NULL, 0, NULL, status);
    check(status);
    TF_DeleteStatus(status);
}

/* A file's bytes as a string tensor of shape [1]. */
static TF_Tensor *read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail("cannot be opened", path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *bytes = size < 0 ? NULL : malloc((size_t)size + 1);
    if (!bytes || fread(bytes, 1, (size_t)size, file) != (size_t)size) fail("cannot be read", path);
    fclose(file);

    const int64_t shape[] = {1};
    TF_Tensor *tensor = TF_AllocateTensor(TF_STRING, shape, 1, sizeof(TF_TString));
    TF_TString *string = TF_TensorData(tensor);
    TF_StringInit(string);
    TF_StringCopy(string, bytes, (size_t)size);
    free(bytes);
    return tensor;
}

static void embed(const struct model *model, char **names, const char *path) {
    const TF_Output outputs[] = {find(model, names[1]), find(model, names[2])};
    TF_Tensor *audio = read_file(path);
    TF_Tensor *results[2] = {NULL, NULL};
    run(model, find(model, names[0]), audio, outputs, results, 2);
    if (TF_TensorType(results[0]) != TF_FLOAT) fail("not float32", names[1]);
    if (TF_TensorType(results[1]) != TF_INT32) fail("not int32", names[2]);

    printf("%d\n", (int)*(const int32_t *)TF_TensorData(results[1]));
    const float *values = TF_TensorData(results[0]);
    for (int64_t i = 0; i < TF_TensorElementCount(results[0]); ++i)
        printf("%.9g%c", values[i], (i + 1) % EMBEDDING_SIZE ? ' ' : '\n');

    TF_StringDealloc(TF_TensorData(audio));
    TF_DeleteTensor(audio);
    TF_DeleteTensor(results[0]);
    TF_DeleteTensor(results[1]);
}

static void feed_rank_3(const struct model *model, char **names) {
    const int64_t shape[] = {1, 16000, 1};
    const size_t size = 16000 * sizeof(float);
    const TF_Output output = find(model, names[1]);
    TF_Tensor *waveform = TF_AllocateTensor(TF_FLOAT, shape, 3, size);
    memset(TF_TensorData(waveform), 0, size);
    TF_Tensor *result = NULL;
    run(model, find(model, names[0]), waveform, &output, &result, 1);
    TF_DeleteTensor(waveform);
    TF_DeleteTensor(result);
}

int main(int argc, char **argv) {
    int rank_3 = argc == 5 && strcmp(argv[2], "--rank3") == 0;
    if (argc != 6 && !rank_3) {
        fputs("usage: embed_wav SAVED_MODEL_DIR INPUT_OP EMBEDDING_OP:INDEX NUM_EXAMPLES_OP:INDEX FILE.wav\n", stderr);
        fputs("       embed_wav SAVED_MODEL_DIR --rank3 INPUT_OP OUTPUT_OP:INDEX\n", stderr);
        return 2;
    }
    struct model model = load(argv[1]);
    if (rank_3)
        feed_rank_3(&model, argv + 3);
    else
        embed(&model, argv + 2, argv[5]);
    unload(model);
    return 0;
}
