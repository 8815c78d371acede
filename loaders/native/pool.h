/* Threads that make a batch; pool.c describes how. */

#ifndef HARNESS_POOL_H
#define HARNESS_POOL_H

#include "worker.h"

struct pool;

/* Make a pool of `num_threads` threads: num_threads - 1 of its own, and the caller of run_job.
 * Starts no thread yet. Returns NULL if memory is short. */
struct pool *new_pool(int num_threads);

/* Make all images of the job, and set job->error_codes. Several threads may call this at the same
 * time. */
void run_job(struct pool *pool, const struct job *job);

void free_pool(struct pool *pool);

#endif
