// Detection in an image with an exported CenterNet and ONNX Runtime's C API:
//
//     detect MODEL.onnx IMAGE.jpg [least score, by default 0.3]
//
// writes a line per detection, best first: class, score, x1, y1, x2, y2 in image pixels, separated by tabs.
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "onnxruntime_c_api.h"

#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#include "stb_image.h"

#define API_VERSION 20  // ONNX Runtime 1.20's, which newer headers and libraries have, too
#if ORT_API_VERSION < API_VERSION
#error "onnxruntime_c_api.h is older than ONNX Runtime 1.20"
#endif
#define LARGEST 16384  // no side of an input is longer

typedef struct {
    const char *path;
    OrtEnv *env;
    OrtSession *session;
    OrtModelMetadata *metadata;
    OrtAllocator *allocator;
    int bytes;  // the input is uint8 [batch, height, width, 3], else normalized float32 [batch, 3, height, width]
    int64_t batch;
    int width, height;
    double mean[3], std[3];  // of blue, green, red, in [0, 1]
    double down_ratio;       // input pixels per output pixel
    char **classes, *names;  // the names, and the text that has them
    size_t class_count;
} Model;

typedef struct {
    unsigned char *rgb;
    int width, height;
} Image;

static const OrtApi *ort;

// Write what is wrong and end the program; the system frees its memory.
static _Noreturn void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("error: ", stderr);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    exit(2);
}

// End the program unless a call of ONNX Runtime succeeded. The first line of its message says what is wrong.
static void check(const char *path, OrtStatus *status) {
    if (!status) return;
    const char *message = ort->GetErrorMessage(status);
    fail("%s: ONNX Runtime %s: %.*s; use a file of export.py, and a version that runs it (docs/onnx.md)", path,
         OrtGetApiBase()->GetVersionString(), (int)strcspn(message, "\n"), message);
}

// Memory filled with zeros.
static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) fail("out of memory (%zu times %zu bytes); use a smaller input", count, size);
    return memory;
}

// ---------------------------------------------------------------- metadata: names with JSON

static _Noreturn void fail_metadata(const Model *model, const char *name) {
    fail("%s: its metadata has no valid %s; use a file of this project's export.py", model->path, name);
}

// The JSON of a name, to be freed.
static char *read_metadata(const Model *model, const char *name) {
    char *text = NULL;
    check(model->path, ort->ModelMetadataLookupCustomMetadataMap(model->metadata, model->allocator, name, &text));
    if (!text) fail_metadata(model, name);
    char *copy = strcpy(allocate(strlen(text) + 1, 1), text);
    check(model->path, ort->AllocatorFree(model->allocator, text));
    return copy;
}

static char *skip_spaces(char *text) {
    return text + strspn(text, " \t\r\n");
}

// Read a number, or a list of `count`, all from least to most.
static void read_numbers(const Model *model, const char *name, double *numbers, int count, double least, double most) {
    char *text = read_metadata(model, name), *at = skip_spaces(text), *end;
    for (int i = 0; i < count; i++) {
        if (count > 1 && *at++ != (i ? ',' : '[')) fail_metadata(model, name);
        numbers[i] = strtod(at, &end);
        if (end == at || !(numbers[i] >= least && numbers[i] <= most)) fail_metadata(model, name);
        at = skip_spaces(end);
    }
    if (count > 1 && *at++ != ']') fail_metadata(model, name);
    if (*skip_spaces(at)) fail_metadata(model, name);
    free(text);
}

// The value of four hexadecimal digits, or -1.
static long read_hex(const char *digits) {
    char copy[5] = "";
    strncpy(copy, digits, 4);
    return strspn(copy, "0123456789abcdefABCDEF") == 4 ? strtol(copy, NULL, 16) : -1;
}

// Write a character in UTF-8; returns its end.
static char *write_utf8(char *to, long character) {
    int more = character < 0x80 ? 0 : character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;  // bytes after the first
    *to++ = (char)((more ? 0xF00 >> (more + 1) : 0) | character >> 6 * more);
    while (more--) *to++ = (char)(0x80 | (character >> 6 * more & 0x3F));
    return to;
}

// Decode a JSON string in place, which is never longer without its quote and escapes. Control characters, which would
// break the output's lines, become spaces. Returns what follows, or NULL if it is not a string.
static char *decode_string(char *text) {
    char *from = text, *to = text;
    if (*from++ != '"') return NULL;
    while (*from != '"') {
        if (!*from) return NULL;
        if (*from != '\\') {
            *to++ = (unsigned char)*from < ' ' ? ' ' : *from;
            from++;
        } else if (from[1] == 'u') {
            long character = read_hex(from + 2);
            if (character < 0) return NULL;
            from += 6;
            if (character >> 10 == 0x36 && from[0] == '\\' && from[1] == 'u' && read_hex(from + 2) >> 10 == 0x37) {
                character = 0x10000 + ((character & 0x3FF) << 10) + (read_hex(from + 2) & 0x3FF);  // of a pair
                from += 6;
            }
            to = write_utf8(to, character < ' ' ? ' ' : character);
        } else {
            if (!from[1] || !strchr("\"\\/bfnrt", from[1])) return NULL;
            *to++ = strchr("bfnrt", from[1]) ? ' ' : from[1];
            from += 2;
        }
    }
    *to = '\0';
    return from + 1;
}

static void read_classes(Model *model) {
    model->names = read_metadata(model, "classes");
    model->classes = allocate(strlen(model->names) + 1, sizeof *model->classes);  // more than there can be
    char *at = skip_spaces(model->names);
    if (*at != '[') fail_metadata(model, "classes");
    do {
        at = skip_spaces(at + 1);
        model->classes[model->class_count++] = at;
        if (!(at = decode_string(at))) fail_metadata(model, "classes");
        at = skip_spaces(at);
    } while (*at == ',');
    if (*at != ']') fail_metadata(model, "classes");
}

// ---------------------------------------------------------------- the model

static void require_detections(const Model *model) {
    size_t count;
    int found = 0;
    check(model->path, ort->SessionGetOutputCount(model->session, &count));
    for (size_t i = 0; i < count; i++) {
        char *name;
        check(model->path, ort->SessionGetOutputName(model->session, i, model->allocator, &name));
        found |= !strcmp(name, "detections");
        check(model->path, ort->AllocatorFree(model->allocator, name));
    }
    if (!found) fail("%s: it has no output detections; export it with --export_config.onnx_decode true", model->path);
}

// Read type and sizes of the input. Where it takes any size, it will be one image of the training's size.
static void read_input(Model *model) {
    OrtTypeInfo *type;
    const OrtTensorTypeAndShapeInfo *tensor;
    ONNXTensorElementDataType kind = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t rank = 0;
    int64_t sizes[4];  // -1: any
    double trained[2];
    check(model->path, ort->SessionGetInputTypeInfo(model->session, 0, &type));
    check(model->path, ort->CastTypeInfoToTensorInfo(type, &tensor));
    if (tensor) {
        check(model->path, ort->GetTensorElementType(tensor, &kind));
        check(model->path, ort->GetDimensionsCount(tensor, &rank));
    }
    model->bytes = kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    if (rank != 4 || (!model->bytes && kind != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)) {
        fail("%s: its input is not a batch of images; use a file of this project's export.py", model->path);
    }
    check(model->path, ort->GetDimensions(tensor, sizes, 4));
    ort->ReleaseTypeInfo(type);
    int64_t height = sizes[model->bytes ? 1 : 2], width = sizes[model->bytes ? 2 : 3];
    if (width > LARGEST || height > LARGEST) {
        fail("%s: its input has a side of more than %d pixels; export it with a smaller --export_config.input_res",
             model->path, LARGEST);
    }
    read_numbers(model, "input_res_train", trained, 2, 1, LARGEST);
    model->batch = sizes[0] > 0 ? sizes[0] : 1;
    model->width = width > 0 ? (int)width : (int)trained[0];
    model->height = height > 0 ? (int)height : (int)trained[1];
}

static Model open_model(const char *path) {
    Model model = {.path = path};
    OrtSessionOptions *options;
    FILE *file = fopen(path, "rb");
    if (!file) fail("%s: cannot be read (%s); give an exported ONNX file", path, strerror(errno));
    fclose(file);
    check(path, ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "detect", &model.env));
    check(path, ort->CreateSessionOptions(&options));
    check(path, ort->CreateSession(model.env, path, options, &model.session));
    ort->ReleaseSessionOptions(options);
    check(path, ort->GetAllocatorWithDefaultOptions(&model.allocator));
    check(path, ort->SessionGetModelMetadata(model.session, &model.metadata));
    require_detections(&model);
    read_input(&model);
    read_numbers(&model, "mean", model.mean, 3, -1e6, 1e6);
    read_numbers(&model, "std", model.std, 3, 1e-6, 1e6);
    read_numbers(&model, "down_ratio", &model.down_ratio, 1, 1, LARGEST);
    read_classes(&model);
    return model;
}

static void close_model(Model *model) {
    free(model->classes);
    free(model->names);
    ort->ReleaseModelMetadata(model->metadata);
    ort->ReleaseSession(model->session);
    ort->ReleaseEnv(model->env);
}

// ---------------------------------------------------------------- the image

static Image read_image(const char *path) {
    Image image;
    FILE *file = fopen(path, "rb");
    if (!file) fail("%s: cannot be read (%s); give a JPEG or PNG file", path, strerror(errno));
    image.rgb = stbi_load_from_file(file, &image.width, &image.height, NULL, 3);
    fclose(file);
    if (!image.rgb) fail("%s: cannot be decoded (%s); convert it to JPEG or PNG", path, stbi_failure_reason());
    return image;
}

// Image pixels per input pixel.
static double scale_of(const Model *model, const Image *image) {
    return fmax((double)image->width / model->width, (double)image->height / model->height);
}

// A coordinate in an input's side -> in the image's side. The centers of both coincide.
static double to_image(double value, int input_side, int image_side, double scale) {
    return (value - input_side / 2.0) * scale + image_side / 2.0;
}

// Blue, green and red at a point between pixels: bilinear, black outside the image.
static void interpolate(const Image *image, double x, double y, double *bgr) {
    double left = floor(x), top = floor(y);
    bgr[0] = bgr[1] = bgr[2] = 0;
    for (int corner = 0; corner < 4; corner++) {
        double column = left + corner % 2, row = top + corner / 2;
        if (column < 0 || row < 0 || column >= image->width || row >= image->height) continue;
        double weight = (1 - fabs(x - column)) * (1 - fabs(y - row));
        const unsigned char *rgb = image->rgb + 3 * ((size_t)row * image->width + (size_t)column);
        for (int channel = 0; channel < 3; channel++) bgr[channel] += weight * rgb[2 - channel];
    }
}

// The input and its number of bytes: the image centered on black; the batch's other images are zeros. To be freed.
static void *make_input(const Model *model, const Image *image, size_t *size) {
    double scale = scale_of(model, image);
    size_t pixels = (size_t)model->width * model->height, at = 0;
    size_t of_one = pixels * 3 * (model->bytes ? 1 : sizeof(float));
    void *input = allocate(model->batch, of_one);
    *size = model->batch * of_one;
    unsigned char *bytes = input;
    float *values = input;
    for (int y = 0; y < model->height; y++) {
        double image_y = to_image(y, model->height, image->height, scale);
        for (int x = 0; x < model->width; x++, at++) {
            double bgr[3];
            interpolate(image, to_image(x, model->width, image->width, scale), image_y, bgr);
            for (int channel = 0; channel < 3; channel++) {
                double value = rint(bgr[channel]);
                if (model->bytes) {
                    bytes[3 * at + channel] = (unsigned char)value;
                } else {
                    value = (value / 255 - model->mean[channel]) / model->std[channel];
                    values[channel * pixels + at] = (float)value;
                }
            }
        }
    }
    return input;
}

// ---------------------------------------------------------------- detection

// Run the network; returns its output, to be released.
static OrtValue *run(const Model *model, void *input, size_t size) {
    const char *inputs[] = {"image"}, *outputs[] = {"detections"};
    int64_t of_floats[] = {model->batch, 3, model->height, model->width};
    int64_t of_bytes[] = {model->batch, model->height, model->width, 3};
    OrtMemoryInfo *memory;
    OrtValue *tensor, *output = NULL;
    check(model->path, ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    check(model->path, ort->CreateTensorWithDataAsOrtValue(
                           memory, input, size, model->bytes ? of_bytes : of_floats, 4,
                           model->bytes ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                           &tensor));
    check(model->path, ort->Run(model->session, NULL, inputs, (const OrtValue *const *)&tensor, 1, outputs, 1,
                                &output));
    ort->ReleaseValue(tensor);
    ort->ReleaseMemoryInfo(memory);
    return output;
}

// Write the first image's detections with at least a score; returns their number.
static int write_detections(const Model *model, const Image *image, OrtValue *output, double least) {
    OrtTensorTypeAndShapeInfo *shape;
    ONNXTensorElementDataType kind;
    size_t rank;
    int64_t sizes[3] = {0};  // batch, K, values of a row
    void *data;
    int found = 0;
    check(model->path, ort->GetTensorTypeAndShape(output, &shape));
    check(model->path, ort->GetTensorElementType(shape, &kind));
    check(model->path, ort->GetDimensionsCount(shape, &rank));
    if (rank == 3) check(model->path, ort->GetDimensions(shape, sizes, 3));
    ort->ReleaseTensorTypeAndShapeInfo(shape);
    if (kind != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || sizes[0] < 1 || sizes[2] < 6) {
        fail("%s: its output is not [batch, K, 6]; use a file of this project's export.py", model->path);
    }
    check(model->path, ort->GetTensorMutableData(output, &data));
    double scale = scale_of(model, image);
    for (int64_t i = 0; i < sizes[1]; i++) {
        const float *row = (const float *)data + i * sizes[2];  // x1, y1, x2, y2 in output pixels, score, class
        if (!(row[4] >= least)) continue;
        if (!(row[5] >= 0 && row[5] < model->class_count)) fail_metadata(model, "classes");
        printf("%s\t%.4f", model->classes[(size_t)row[5]], row[4]);
        for (int k = 0; k < 4; k += 2) {
            printf("\t%.2f", to_image(row[k] * model->down_ratio, model->width, image->width, scale));
            printf("\t%.2f", to_image(row[k + 1] * model->down_ratio, model->height, image->height, scale));
        }
        printf("\n");
        found++;
    }
    return found;
}

static double milliseconds(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

int main(int count, char **words) {
    if (count < 3 || count > 4) fail("expected: detect MODEL.onnx IMAGE.jpg [LEAST_SCORE]");
    const char *given = count > 3 ? words[3] : "0.3";
    char *end;
    double least = strtod(given, &end);
    if (end == given || *end || !(least >= 0 && least <= 1)) {
        fail("the least score is %s; give a number from 0 to 1", given);
    }
    ort = OrtGetApiBase()->GetApi(API_VERSION);
    if (!ort) fail("ONNX Runtime %s is too old; install 1.20 or newer", OrtGetApiBase()->GetVersionString());
    Model model = open_model(words[1]);
    Image image = read_image(words[2]);
    double start = milliseconds();
    size_t size;
    void *input = make_input(&model, &image, &size);
    OrtValue *output = run(&model, input, size);
    double taken = milliseconds() - start;
    int found = write_detections(&model, &image, output, least);
    ort->ReleaseValue(output);
    free(input);
    stbi_image_free(image.rgb);
    close_model(&model);
    if (fflush(stdout) || ferror(stdout)) fail("the output cannot be written (%s); make room", strerror(errno));
    fprintf(stderr, "%d detections in %.0f ms\n", found, taken);
    return 0;
}
