/* The limit of reading records: one pread, CRC-32C, and a copy of the payload to its place in an array.
 *
 * Where each record and the payload in it lie is given: nothing is parsed, nothing allocated, and no interpreter runs.
 */
#include <cstdint>
#include <cstring>

#include <pthread.h>

#include "crc32c.hpp"
#include "limit.h"

enum { MOST_THREADS = 256 };

struct record_list {
  int64_t fd;
  const uint8_t *mapped; /* the file, or NULL: it is read with pread */
  uint64_t n;
  const uint64_t *offset; /* of the record's data in the file */
  const uint64_t *size;
  const uint32_t *crc32c;
  uint64_t payload; /* bytes at the end of each record that are copied */
  uint64_t batch;   /* payloads that lie side by side in the output memory, which all batches use in turn */
  uint8_t *output;  /* of thread t: output + t * batch * payload */
  uint8_t *scratch; /* of thread t: scratch + t * stride */
  uint64_t stride;
};

struct share {
  const record_list *list;
  uint64_t begin, end, thread;
  uint64_t bad; /* 1 + the first record that is bad, or 0 */
};

static void *read_share(void *context) {
  share *mine = static_cast<share *>(context);
  const record_list *list = mine->list;
  uint8_t *scratch = list->scratch + mine->thread * list->stride;
  uint8_t *output = list->output + mine->thread * list->batch * list->payload;
  for (uint64_t i = mine->begin; i < mine->end; ++i) {
    const uint8_t *data = scratch;
    if (list->mapped)
      data = list->mapped + list->offset[i];
    else if (!read_all(static_cast<int>(list->fd), scratch, list->size[i], list->offset[i])) {
      mine->bad = i + 1;
      break;
    }
    if (archivestream::crc32c::update(0, data, list->size[i]) != list->crc32c[i]) {
      mine->bad = i + 1;
      break;
    }
    std::memcpy(output + i % list->batch * list->payload, data + list->size[i] - list->payload, list->payload);
  }
  return nullptr;
}

/* Read all records, each thread an equal run of them. Returns 0, or 1 + the number of a bad record. */
extern "C" uint64_t limit_records(const record_list *list, uint64_t threads) {
  share shares[MOST_THREADS];
  pthread_t others[MOST_THREADS];
  uint64_t started = 1, bad = 0;
  if (threads < 1 || threads > MOST_THREADS) return UINT64_MAX;
  for (uint64_t t = 0; t < threads; ++t)
    shares[t] = share{list, list->n * t / threads, list->n * (t + 1) / threads, t, 0};
  for (; started < threads; ++started)
    if (pthread_create(&others[started], nullptr, read_share, &shares[started])) break;
  read_share(&shares[0]);
  for (uint64_t t = 1; t < started; ++t) pthread_join(others[t], nullptr);
  for (uint64_t t = 0; t < started && !bad; ++t) bad = shares[t].bad;
  return started < threads ? UINT64_MAX : bad;
}
