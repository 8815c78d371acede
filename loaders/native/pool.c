/* Threads that make a batch, without Python.
 *
 * Each image of a batch is a task, and each thread takes the next pending task. Results do not
 * depend on which thread makes an image, nor on the number of threads. Threads start with the first
 * batch of several images. Between batches they wait and keep their buffers. A forked process has
 * only the thread that forked, so it starts new threads.
 */

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "pool.h"

struct pool {
    pthread_mutex_t turn;           /* locked by the caller whose job runs */
    /* Protects num_started, num_busy, num_jobs, has_ended and job. */
    pthread_mutex_t lock;
    pthread_cond_t job_came, job_done;
    pid_t process;                  /* process in which the threads run */
    int num_threads, num_started;   /* num_started: without the caller */
    int num_busy;                   /* started threads that work on the job */
    int64_t num_jobs;               /* jobs so far */
    int has_ended;
    const struct job *job;          /* NULL between jobs */
    _Atomic int64_t next_image;     /* number of the next pending image of the job */
    pthread_t *threads;             /* [num_threads], num_started of them are in use */
    /* [num_threads] one for each thread; the first is the caller's */
    struct worker *workers;
};

/* Argument of a new thread. */
struct start {
    struct pool *pool;
    int number;
};

static void take_images(struct pool *pool, struct worker *worker, const struct job *job) {
    int64_t i;
    while ((i = atomic_fetch_add(&pool->next_image, 1)) < job->num_images)
        work_on(worker, job, i);
}

static void *serve(void *argument) {
    struct start start = *(struct start *)argument;
    struct pool *pool = start.pool;
    int64_t num_seen = 0;
    free(argument);
    pthread_mutex_lock(&pool->lock);
    while (1) {
        while (pool->num_jobs == num_seen && !pool->has_ended)
            pthread_cond_wait(&pool->job_came, &pool->lock);
        if (pool->has_ended)
            break;
        num_seen = pool->num_jobs;
        if (pool->job == NULL)      /* the other threads have finished the job */
            continue;
        const struct job *job = pool->job;
        pool->num_busy++;
        pthread_mutex_unlock(&pool->lock);
        take_images(pool, &pool->workers[start.number], job);
        pthread_mutex_lock(&pool->lock);
        if (--pool->num_busy == 0)
            pthread_cond_signal(&pool->job_done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Start the missing threads. If the system refuses some, the others do the work. The threads block
 * all signals except faults, so that Python's threads receive them. */
static void start_threads(struct pool *pool) {
    static const int FAULTS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t blocked, before;
    if (pool->num_started == pool->num_threads - 1)
        return;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof FAULTS / sizeof FAULTS[0]; i++)
        sigdelset(&blocked, FAULTS[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    while (pool->num_started < pool->num_threads - 1) {
        struct start *start = malloc(sizeof *start);
        if (start == NULL)
            break;
        *start = (struct start){pool, pool->num_started + 1};
        if (pthread_create(&pool->threads[pool->num_started], NULL, serve, start) != 0) {
            free(start);
            break;
        }
        pool->num_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void reset(struct pool *pool) {
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->job_came, NULL);
    pthread_cond_init(&pool->job_done, NULL);
    pool->process = getpid();
    pool->num_started = pool->num_busy = 0;
    pool->num_jobs = 0;
    pool->has_ended = 0;
    pool->job = NULL;
}

struct pool *new_pool(int num_threads) {
    struct pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return NULL;
    pool->num_threads = num_threads > 1 ? num_threads : 1;
    pool->threads = calloc(pool->num_threads, sizeof *pool->threads);
    pool->workers = calloc(pool->num_threads, sizeof *pool->workers);
    reset(pool);
    if (pool->threads == NULL || pool->workers == NULL) {
        free(pool->threads);
        free(pool->workers);
        free(pool);
        return NULL;
    }
    return pool;
}

void run_job(struct pool *pool, const struct job *job) {
    if (pool->process != getpid()) {
        /* This process is a fork: the parent's threads may have left locks and workers in any
         * state, so their memory is leaked. */
        for (int i = 0; i < pool->num_threads; i++)
            pool->workers[i] = (struct worker){0};
        reset(pool);
    }
    /* If another job is running, this thread makes all images of this one. */
    if (pthread_mutex_trylock(&pool->turn) != 0) {
        struct worker worker = {0};
        for (int64_t i = 0; i < job->num_images; i++)
            work_on(&worker, job, i);
        free_worker(&worker);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    if (job->num_images > 1)
        start_threads(pool);
    atomic_store(&pool->next_image, 0);
    pool->job = job;
    pool->num_jobs++;
    pthread_cond_broadcast(&pool->job_came);
    pthread_mutex_unlock(&pool->lock);

    take_images(pool, &pool->workers[0], job);

    pthread_mutex_lock(&pool->lock);
    pool->job = NULL;
    while (pool->num_busy > 0)
        pthread_cond_wait(&pool->job_done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    pthread_mutex_unlock(&pool->turn);
}

void free_pool(struct pool *pool) {
    if (pool->process == getpid()) {
        pthread_mutex_lock(&pool->turn);    /* wait for the running job */
        pthread_mutex_unlock(&pool->turn);
        pthread_mutex_lock(&pool->lock);
        pool->has_ended = 1;
        pthread_cond_broadcast(&pool->job_came);
        pthread_mutex_unlock(&pool->lock);
        for (int i = 0; i < pool->num_started; i++)
            pthread_join(pool->threads[i], NULL);
        for (int i = 0; i < pool->num_threads; i++)
            free_worker(&pool->workers[i]);
    }
    free(pool->threads);
    free(pool->workers);
    free(pool);
}
