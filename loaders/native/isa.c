/* Select the instruction set at run time. */

#include "stages.h"

#define PLAIN_LOOPS \
    .decode_lanes = decode_lanes_scalar, \
    .inverse_dct = inverse_dct_scalar, \
    .read_dct_row = read_dct_row_scalar, \
    .upsample_h2v1 = upsample_h2v1_scalar, \
    .upsample_h2v2 = upsample_h2v2_scalar, \
    .upsample_h1v2 = upsample_h1v2_scalar, \
    .ycc_to_rgb = ycc_to_rgb_scalar, \
    .split_rgb = split_rgb_scalar, \
    .join_rgb = join_rgb_scalar, \
    .resize_across = resize_across_scalar, \
    .resize_down = resize_down_scalar, \
    .to_float16 = NULL,

static const struct stages SCALAR_STAGES = {.name = "scalar", PLAIN_LOOPS};
static const struct stages PLAIN_STAGES = {.name = "libjpeg-turbo", .leaves_jpeg = 1, PLAIN_LOOPS};

#if HAS_AVX2
#define AVX2_LOOPS \
    .decode_lanes = decode_lanes_avx2, \
    .inverse_dct = inverse_dct_avx2, \
    .upsample_h2v1 = upsample_h2v1_avx2, \
    .upsample_h2v2 = upsample_h2v2_avx2, \
    .upsample_h1v2 = upsample_h1v2_avx2, \
    .ycc_to_rgb = ycc_to_rgb_avx2, \
    .split_rgb = split_rgb_avx2, \
    .join_rgb = join_rgb_avx2, \
    .to_float16 = to_float16_avx2,
#define AVX2_RESIZE \
    .resize_across = resize_across_avx2, \
    .resize_down = resize_down_avx2,

static const struct stages AVX2_STAGES = {.name = "AVX2", AVX2_LOOPS AVX2_RESIZE .read_dct_row = read_dct_row_avx2};
static const struct stages SLOW_PDEP_STAGES = {
    .name = "AVX2 without pdep", AVX2_LOOPS AVX2_RESIZE .read_dct_row = read_dct_row_slow_pdep};
static const struct stages VBMI_STAGES = {
    .name = "AVX-512 VBMI",
    .has_windows = 1,
    .decode_lanes = decode_lanes_avx2,
    .inverse_dct = inverse_dct_vbmi,
    .read_dct_row = read_dct_row_vbmi,
    .upsample_h2v1 = upsample_h2v1_vbmi,
    .upsample_h2v2 = upsample_h2v2_vbmi,
    .upsample_h1v2 = upsample_h1v2_avx2,
    .ycc_to_rgb = ycc_to_rgb_vbmi,
    .split_rgb = split_rgb_vbmi,
    .join_rgb = join_rgb_vbmi,
    .resize_across = resize_across_vbmi,
    .resize_down = resize_down_vbmi,
    .to_float16 = to_float16_avx2};
#endif

static int has_avx2(void) {
#if HAS_AVX2
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt") &&
           __builtin_cpu_supports("movbe");
#else
    return 0;
#endif
}

#if HAS_AVX2
/* Zen and Zen 2 implement pdep in microcode, which is slow. */
static int has_slow_pdep(void) {
    return __builtin_cpu_is("znver1") || __builtin_cpu_is("znver2");
}

static int has_vbmi(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
}

/* Ice Lake lowers its clock for 512-bit code, so AVX2 is used there. It is recognized by its lack
 * of bf16. */
static int has_fast_vbmi(void) {
    return has_vbmi() && __builtin_cpu_supports("avx512bf16");
}
#endif

const struct stages *stages_of(enum isa isa) {
    switch (isa) {
        case SCALAR:
            return &SCALAR_STAGES;
        case PLAIN:
            return &PLAIN_STAGES;
#if HAS_AVX2
        case SLOW_PDEP:
            return has_avx2() ? &SLOW_PDEP_STAGES : NULL;
        case AVX2:
            return has_avx2() ? &AVX2_STAGES : NULL;
        case VBMI:
            return has_vbmi() ? &VBMI_STAGES : NULL;
        case BEST_ISA:
            return !has_avx2()       ? &PLAIN_STAGES
                   : has_slow_pdep() ? &SLOW_PDEP_STAGES
                   : has_fast_vbmi() ? &VBMI_STAGES
                                     : &AVX2_STAGES;
#else
        case BEST_ISA:
            return &PLAIN_STAGES;
#endif
        default:
            return NULL;
    }
}

/* Return the name of an instruction set (enum isa), for tests and `harness doctor`. Names:
 * "scalar", "libjpeg-turbo", "AVX2 without pdep", "AVX2", "AVX-512 VBMI". Returns NULL if this
 * processor or this build does not have the instruction set. */
__attribute__((visibility("default")))
const char *harness_isa_name(int isa) {
    const struct stages *stages = stages_of((enum isa)isa);
    return stages == NULL ? NULL : stages->name;
}
