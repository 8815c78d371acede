/* Threads that make a batch; pool.c describes how. */

#ifndef HARNESS_POOL_H
#define HARNESS_POOL_H

#include "worker.h"

struct pool;

/* A pool of `num_threads` threads, of which the calling one is the first. Starts none yet. NULL if
 * memory is short. */
struct pool *new_pool(int num_threads);

/* Make all images of the job; job->error_codes has the failures. Any number of threads may call
 * this at once. */
void run_job(struct pool *pool, const struct job *job);

void free_pool(struct pool *pool);

#endif
