/* The limit: what reading members costs when nothing but the necessary is done.
 *
 * One pread of the payload, libdeflate, CRC-32, into memory that is used again and again. Where each
 * payload lies is given, so no local header is looked at; nothing is allocated and no interpreter runs.
 */
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "libdeflate.h"
#include "limit.h"

enum { MOST_THREADS = 256 };

struct batch_list {
  int64_t fd;
  uint64_t n;                      /* members, in the order in which they are read */
  const uint64_t *offset;          /* of the payload in the file */
  const uint64_t *compressed_size;
  const uint64_t *size;
  const uint64_t *target;          /* where the member goes in the thread's output memory */
  const uint32_t *crc32;
  const uint8_t *is_deflated;
  uint8_t *output;                 /* of thread t: output + t * output_stride */
  uint64_t output_stride;
  uint8_t *scratch;                /* for compressed bytes; likewise */
  uint64_t scratch_stride;
  uint64_t skip;                   /* bytes at the start of a member that the digest leaves out */
  uint32_t *digest;                /* NULL, or the CRC-32 of all members one after the other: not timed */
};

struct share {
  const struct batch_list *list;
  uint64_t begin, end;
  uint64_t thread;
  uint64_t bad; /* 1 + the first member that is bad, or 0 */
};

static void *read_share(void *context) {
  struct share *share = context;
  const struct batch_list *list = share->list;
  uint8_t *scratch = list->scratch + share->thread * list->scratch_stride;
  uint8_t *output = list->output + share->thread * list->output_stride;
  struct libdeflate_decompressor *decoder = libdeflate_alloc_decompressor();
  if (!decoder) {
    share->bad = share->begin + 1;
    return NULL;
  }
  for (uint64_t i = share->begin; i < share->end; ++i) {
    uint8_t *target = output + list->target[i];
    uint8_t *payload = list->is_deflated[i] ? scratch : target;
    int good = read_all((int)list->fd, payload, list->compressed_size[i], list->offset[i]);
    if (good && list->is_deflated[i])
      good = libdeflate_deflate_decompress(decoder, scratch, list->compressed_size[i], target,
                                           list->size[i], NULL) == LIBDEFLATE_SUCCESS;
    if (!good || libdeflate_crc32(0, target, list->size[i]) != list->crc32[i]) {
      share->bad = i + 1;
      break;
    }
    if (list->digest)
      *list->digest = libdeflate_crc32(*list->digest, target + list->skip, list->size[i] - list->skip);
  }
  libdeflate_free_decompressor(decoder);
  return NULL;
}

/* Read all members, each thread an equal run of them. Returns 0, or 1 + the number of a bad member. */
uint64_t limit_read(const struct batch_list *list, uint64_t threads) {
  struct share shares[MOST_THREADS];
  pthread_t others[MOST_THREADS];
  uint64_t started = 1, bad = 0;
  if (threads < 1 || threads > MOST_THREADS) return UINT64_MAX;
  for (uint64_t t = 0; t < threads; ++t)
    shares[t] = (struct share){list, list->n * t / threads, list->n * (t + 1) / threads, t, 0};
  for (; started < threads; ++started)
    if (pthread_create(&others[started], NULL, read_share, &shares[started])) break;
  read_share(&shares[0]);
  for (uint64_t t = 1; t < started; ++t) pthread_join(others[t], NULL);
  for (uint64_t t = 0; t < started && !bad; ++t) bad = shares[t].bad;
  return started < threads ? UINT64_MAX : bad;
}

struct copying {
  uint8_t *to;
  const uint8_t *from;
  uint64_t size, times;
};

static void *copy_share(void *context) {
  const struct copying *share = context;
  for (uint64_t i = 0; i < share->times; ++i) {
    memcpy(share->to, share->from, share->size);
    __asm__ volatile("" ::: "memory"); /* each time anew */
  }
  return NULL;
}

/* Copy memory, each thread an equal run of it, so many times. Returns 0, or 1 where a thread cannot be started. */
uint64_t limit_copy(uint8_t *to, const uint8_t *from, uint64_t size, uint64_t times, uint64_t threads) {
  struct copying shares[MOST_THREADS];
  pthread_t others[MOST_THREADS];
  uint64_t started = 1;
  if (threads < 1 || threads > MOST_THREADS) return 1;
  for (uint64_t t = 0; t < threads; ++t) {
    const uint64_t begin = size * t / threads;
    shares[t] = (struct copying){to + begin, from + begin, size * (t + 1) / threads - begin, times};
  }
  for (; started < threads; ++started)
    if (pthread_create(&others[started], NULL, copy_share, &shares[started])) break;
  copy_share(&shares[0]);
  for (uint64_t t = 1; t < started; ++t) pthread_join(others[t], NULL);
  return started < threads;
}

static uint16_t u16(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }
static uint32_t u32(const uint8_t *at) { return u16(at) | (uint32_t)u16(at + 2) << 16; }

/* Read a central directory into columns: for directories without ZIP64 fields or comments, as ours are.
 * Returns how many entries there are. */
uint64_t limit_scan(int64_t fd, uint64_t offset, uint64_t size, uint8_t *directory, uint64_t *sizes,
                    uint64_t *compressed_sizes, uint64_t *offsets, uint32_t *crc32s, uint16_t *methods,
                    uint64_t *name_offsets, uint8_t *names) {
  uint64_t n = 0, at = 0, named = 0;
  if (!read_all((int)fd, directory, size, offset)) return 0;
  while (size - at >= 46) {
    const uint8_t *entry = directory + at;
    const uint64_t length = u16(entry + 28);
    if (u32(entry) != 0x02014B50 || size - at < 46 + length) return 0;
    methods[n] = u16(entry + 10);
    crc32s[n] = u32(entry + 16);
    compressed_sizes[n] = u32(entry + 20);
    sizes[n] = u32(entry + 24);
    offsets[n] = u32(entry + 42);
    name_offsets[n++] = named;
    memcpy(names + named, entry + 46, length);
    named += length;
    at += 46 + length;
  }
  name_offsets[n] = named;
  return n;
}

/* Read the headers of a tar into columns: for tars in the ustar format without prefixes, as ours are. All of
 * the file comes through memory of `room` bytes, which holds whole blocks. Returns how many members there are. */
uint64_t limit_scan_tar(int64_t fd, uint64_t file_size, uint8_t *buffer, uint64_t room, uint64_t *sizes,
                        uint64_t *offsets, uint64_t *name_offsets, uint8_t *names) {
  uint64_t n = 0, named = 0, next = 0; /* where the next header is */
  for (uint64_t at = 0; at < file_size; at += room) {
    const uint64_t got = file_size - at < room ? file_size - at : room;
    if (!read_all((int)fd, buffer, got, at)) return 0;
    while (next - at + 512 <= got) {
      const uint8_t *header = buffer + (next - at);
      const uint64_t length = strnlen((const char *)header, 100);
      uint64_t size = 0;
      if (!length) {
        name_offsets[n] = named;
        return n;
      }
      for (int i = 124; i < 135; ++i) size = size << 3 | (header[i] & 7);
      sizes[n] = size;
      offsets[n] = next + 512;
      name_offsets[n++] = named;
      memcpy(names + named, header, length);
      named += length;
      next += 512 + ((size + 511) & ~(uint64_t)511);
    }
  }
  return 0;
}
