/*
 * Dynamic routing on the CPU: the sums over children that `native_dynamic.py` asks for, forwards and backwards.
 *
 * The votes of a child are formed for a few examples whenever they are needed, and never leave the cache of a core. A
 * lane of a vector is an example, so that no sum goes across lanes; for the gradient of the weight, a sum over
 * examples, it is a number of a parent's pose.
 * The work is divided by children and by blocks of LANES examples, never by threads: any number of them gives the same.
 *
 * The compiler is given REAL (float or double), LANES, the sizes PARENTS (J), DIM_OUT (E), DIM_IN (D), ROW (a power of
 * two, at least E), LEAKY and DETACH (0 or 1), and PASSES (whose couplings have a part in the gradient). Index letters
 * are those of `capsule_lightning.layers`; NUMBERS are the J E numbers of the votes of a child.
 */

#include <string.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))

enum { NUMBERS = PARENTS * DIM_OUT };

typedef REAL lanes __attribute__((vector_size(LANES * sizeof(REAL))));
typedef REAL row __attribute__((vector_size(ROW * sizeof(REAL))));
typedef lanes given_lanes __attribute__((aligned(sizeof(REAL)))); /* in memory from elsewhere */
typedef row given_row __attribute__((aligned(sizeof(REAL))));
typedef __typeof__((lanes){0} < (lanes){0}) mask;

static inline lanes choose(mask which, lanes yes, lanes no) {
    return (lanes)((which & (mask)yes) | (~which & (mask)no));
}

/* exp(x) for x at most 0; NaN stays NaN. */
static inline lanes exponential(lanes x) {
    if (sizeof(REAL) == sizeof(double)) {
        for (int l = 0; l < LANES; l++)
            x[l] = __builtin_exp(x[l]);
        return x;
    }
    /* exp(x) = 2^n exp(r) with |r| at most ln(2) / 2, where its Taylor series to r^7 is exact to the last bit but one */
    const lanes zero = {0};
    x = choose(x < (REAL)-86, zero - (REAL)86, x);
    const lanes shifted = x * (REAL)1.4426950408889634 + (REAL)12582912; /* 1.5 * 2^23 puts n into the lowest bits */
    const lanes n = shifted - (REAL)12582912;
    const lanes r = (x - n * (REAL)0.693145751953125) - n * (REAL)1.4286068203094172e-06; /* ln(2) in two parts */
    lanes power = zero + (REAL)(1.0 / 5040);
    power = power * r + (REAL)(1.0 / 720);
    power = power * r + (REAL)(1.0 / 120);
    power = power * r + (REAL)(1.0 / 24);
    power = power * r + (REAL)(1.0 / 6);
    power = power * r + (REAL)0.5;
    power = power * r + (REAL)1;
    power = power * r + (REAL)1;
    return (lanes)((mask)power + ((mask)shifted << 23));
}

/* Form the votes of a child for some examples from its matrices w (J, E, D) and its poses u. */
static inline void vote(lanes votes[NUMBERS], const REAL *w, const lanes u[DIM_IN]) {
    for (int n = 0; n < NUMBERS; n++) {
        votes[n] = (lanes){0};
        for (int d = 0; d < DIM_IN; d++)
            votes[n] += w[n * DIM_IN + d] * u[d];
    }
}

/* The product of each vote with the vector of its parent. */
static inline void agree(lanes found[PARENTS], const lanes votes[NUMBERS], const given_lanes *vectors) {
    for (int j = 0; j < PARENTS; j++) {
        found[j] = (lanes){0};
        for (int n = j * DIM_OUT; n < (j + 1) * DIM_OUT; n++)
            found[j] += votes[n] * vectors[n];
    }
}

/* Turn the logits of a child into its coupling coefficients. */
static inline void couple(lanes logits[PARENTS]) {
    lanes most = LEAKY ? (lanes){0} : logits[0];
    for (int j = 0; j < PARENTS; j++)
        most = choose(logits[j] > most, logits[j], most);
    lanes total = LEAKY ? exponential(-most) : (lanes){0};
    for (int j = 0; j < PARENTS; j++)
        total += logits[j] = exponential(logits[j] - most);
    total = 1 / total;
    for (int j = 0; j < PARENTS; j++)
        logits[j] *= total;
}

/* Turn the gradients of the couplings c of a child into those of its logits. */
static inline void couple_back(lanes grad[PARENTS], const lanes c[PARENTS]) {
    lanes all = {0};
    for (int j = 0; j < PARENTS; j++)
        all += grad[j] *= c[j];
    for (int j = 0; j < PARENTS; j++)
        grad[j] -= c[j] * all;
}

/* Take `count` numbers of each of some examples, number by number; lanes without an example are zero. */
static inline void take(lanes *to, const REAL *from, long of_example, long count, long examples) {
    REAL *numbers = (REAL *)to;
    memset(to, 0, count * sizeof(lanes));
    for (long l = 0; l < examples; l++)
        for (long k = 0; k < count; k++)
            numbers[k * LANES + l] = from[l * of_example + k];
}

/* The same the other way round. */
static inline void give(REAL *to, const lanes *from, long of_example, long count, long examples) {
    const REAL *numbers = (const REAL *)from;
    for (long l = 0; l < examples; l++)
        for (long k = 0; k < count; k++)
            to[l * of_example + k] = numbers[k * LANES + l];
}

/*
 * One pass of routing, or its way back.
 *
 * Forwards, `total` gets the votes times coupling coefficients, which their agreement with `agreed` gives; if there is
 * nothing to agree with, the votes. Backwards, if the gradient of that total is given, it gets the votes times the
 * gradients of the logits.
 *
 *   poses (B, I, D), weight (I, J, E, D)
 *   agreed, grad (blocks, J, E, LANES); total (parts, blocks, J, E, LANES), of each part of the children
 */
void route_pass(const REAL *poses, const REAL *weight, const given_lanes *agreed, const given_lanes *grad,
                given_lanes *total, long batch, long children, long of_part, int threads) {
    const long blocks = (batch + LANES - 1) / LANES, parts = (children + of_part - 1) / of_part;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
    for (long part = 0; part < parts; part++)
        for (long block = 0; block < blocks; block++) {
            const long first = part * of_part, count = MIN(of_part, children - first), b = block * LANES;
            lanes u[count * DIM_IN], sum[NUMBERS], v[NUMBERS], ds[NUMBERS];
            take(u, poses + (b * children + first) * DIM_IN, children * DIM_IN, count * DIM_IN, MIN(LANES, batch - b));
            memset(sum, 0, sizeof sum);
            if (agreed)
                memcpy(v, agreed + block * NUMBERS, sizeof v);
            if (grad)
                memcpy(ds, grad + block * NUMBERS, sizeof ds);
            for (long i = 0; i < count; i++) {
                lanes votes[NUMBERS], c[PARENTS], of_logits[PARENTS];
                vote(votes, weight + (first + i) * NUMBERS * DIM_IN, u + i * DIM_IN);
                if (!agreed) {
                    for (int n = 0; n < NUMBERS; n++)
                        sum[n] += votes[n];
                    continue;
                }
                agree(c, votes, v);
                couple(c);
                if (grad) {
                    agree(of_logits, votes, ds);
                    couple_back(of_logits, c);
                }
                for (int j = 0; j < PARENTS; j++) {
                    const lanes factor = grad ? of_logits[j] : c[j];
                    for (int n = j * DIM_OUT; n < (j + 1) * DIM_OUT; n++)
                        sum[n] += factor * votes[n];
                }
            }
            memcpy(total + (part * blocks + block) * NUMBERS, sum, sizeof sum);
        }
}

/*
 * The gradients of poses and weight.
 *
 * That of a vote is a sum of terms, each a factor of child and parent times a vector of the parent: for each pass the
 * coupling times the gradient of the total, and, unless DETACH, the gradient of the logit times what the votes were
 * compared with; and one vector more, whose factor is 1.
 *
 *   vectors (blocks, 2 PASSES + 1, J, E, LANES): for each pass gradient and comparison, and the one more
 *   rows (blocks * LANES, 2 PASSES + 1, J, ROW), the same
 *   grad_poses (B, I, D), grad_weight (I, J, E, D)
 */
void route_gradients(const REAL *poses, const REAL *weight, const given_lanes *vectors, const given_row *rows,
                     REAL *grad_poses, REAL *grad_weight, long batch, long children, long of_part, int threads) {
    enum { TERMS = DETACH ? PASSES : 2 * PASSES, KINDS = 2 * PASSES + 1 };
    const long blocks = (batch + LANES - 1) / LANES, parts = (children + of_part - 1) / of_part;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long part = 0; part < parts; part++) {
        const long first = part * of_part, count = MIN(of_part, children - first);
        row of_weight[count * PARENTS * DIM_IN];
        memset(of_weight, 0, sizeof of_weight);
        for (long block = 0; block < blocks; block++) {
            const long b = block * LANES, examples = MIN(LANES, batch - b), at = (b * children + first) * DIM_IN;
            const given_lanes *of_block = vectors + block * KINDS * NUMBERS;
            lanes u[count * DIM_IN], of_poses[count * DIM_IN], factors[count][TERMS + 1][PARENTS];
            take(u, poses + at, children * DIM_IN, count * DIM_IN, examples);
            memset(of_poses, 0, sizeof of_poses);
            for (long i = 0; i < count; i++) {
                lanes votes[NUMBERS];
                if (PASSES)
                    vote(votes, weight + (first + i) * NUMBERS * DIM_IN, u + i * DIM_IN);
                for (int pass = 0; pass < PASSES; pass++) {
                    lanes *c = factors[i][DETACH ? pass : 2 * pass];
                    agree(c, votes, of_block + (2 * pass + 1) * NUMBERS);
                    couple(c);
                    if (!DETACH) {
                        agree(c + PARENTS, votes, of_block + 2 * pass * NUMBERS);
                        couple_back(c + PARENTS, c);
                    }
                }
            }
            for (int j = 0; j < PARENTS; j++) {
                const given_lanes *terms = of_block + j * DIM_OUT;
                for (long i = 0; i < count; i++) {
                    const REAL *w = weight + ((first + i) * PARENTS + j) * DIM_OUT * DIM_IN;
                    lanes factor[TERMS + 1], sums[DIM_IN];
                    for (int t = 0; t < TERMS; t++)
                        factor[t] = factors[i][t][j];
                    for (int d = 0; d < DIM_IN; d++)
                        sums[d] = of_poses[i * DIM_IN + d];
                    for (int e = 0; e < DIM_OUT; e++) {
                        lanes grad = terms[2 * PASSES * NUMBERS + e];
                        for (int t = 0; t < TERMS; t++)
                            grad += factor[t] * terms[t * NUMBERS + e];
                        for (int d = 0; d < DIM_IN; d++)
                            sums[d] += w[e * DIM_IN + d] * grad;
                    }
                    for (int d = 0; d < DIM_IN; d++)
                        of_poses[i * DIM_IN + d] = sums[d];

                    row *of_pair = of_weight + (i * PARENTS + j) * DIM_IN, products[DIM_IN];
                    for (int d = 0; d < DIM_IN; d++)
                        products[d] = of_pair[d];
                    for (int l = 0; l < LANES; l++) {
                        const given_row *of_example = rows + (b + l) * KINDS * PARENTS + j;
                        row grad = of_example[2 * PASSES * PARENTS];
                        for (int t = 0; t < TERMS; t++)
                            grad += factor[t][l] * of_example[t * PARENTS];
                        for (int d = 0; d < DIM_IN; d++)
                            products[d] += u[i * DIM_IN + d][l] * grad;
                    }
                    for (int d = 0; d < DIM_IN; d++)
                        of_pair[d] = products[d];
                }
            }
            give(grad_poses + at, of_poses, children * DIM_IN, count * DIM_IN, examples);
        }
        for (long pair = 0; pair < count * PARENTS; pair++)
            for (int e = 0; e < DIM_OUT; e++)
                for (int d = 0; d < DIM_IN; d++)
                    grad_weight[((first * PARENTS + pair) * DIM_OUT + e) * DIM_IN + d] = of_weight[pair * DIM_IN + d][e];
    }
}
