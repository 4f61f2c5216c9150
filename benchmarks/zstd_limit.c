/* The limit for zstd: what decoding costs when nothing but the necessary is done. */
#include <stdint.h>
#include <string.h>

#include "limit.h"
#include "zstd.h"

struct frame_list {
  int64_t fd;
  const uint64_t *offset;          /* of each frame in the file, in the order in which they are decoded */
  const uint64_t *compressed_size;
  const uint64_t *size;
  const uint64_t *first_piece;     /* of each frame, and the end of the last one's */
  const uint64_t *place;           /* of each piece in its decoded frame */
  const uint64_t *piece_size;
  const uint64_t *target;          /* where the piece goes in the output */
  uint8_t *compressed;             /* memory of the largest frame, and of the same decoded */
  uint8_t *decoded;
  uint8_t *output;
};

/* Decode some of the frames, each at once, and copy the pieces out. Returns 0, or 1 + the number of a bad frame. */
uint64_t zstd_limit_frames(const struct frame_list *list, uint64_t begin, uint64_t end) {
  uint64_t bad = 0;
  ZSTD_DCtx *context = ZSTD_createDCtx();
  for (uint64_t i = begin; i < end && !bad; ++i) {
    if (!context || !read_all((int)list->fd, list->compressed, list->compressed_size[i], list->offset[i]) ||
        ZSTD_decompressDCtx(context, list->decoded, list->size[i], list->compressed, list->compressed_size[i]) !=
            list->size[i])
      bad = i + 1;
    else
      for (uint64_t p = list->first_piece[i]; p < list->first_piece[i + 1]; ++p)
        memcpy(list->output + list->target[p], list->decoded + list->place[p], list->piece_size[p]);
  }
  ZSTD_freeDCtx(context);
  return bad;
}

/* Decode a file from its start, piece by piece into memory that is used again, until so many bytes are there.
 * Each piece goes to `take`, if that is not NULL. Returns how many bytes there are, or UINT64_MAX. */
uint64_t zstd_limit_stream(int64_t fd, uint64_t file_size, uint64_t until, uint8_t *compressed,
                           uint64_t compressed_room, uint8_t *decoded, uint64_t decoded_room,
                           void (*take)(uint64_t size)) {
  uint64_t at = 0, done = 0;
  size_t status = 1; /* 0 at the end of a frame */
  ZSTD_inBuffer input = {compressed, 0, 0};
  ZSTD_DCtx *context = ZSTD_createDCtx();
  int good = context && !ZSTD_isError(ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, 31));
  while (good && done < until) {
    ZSTD_outBuffer output = {decoded, decoded_room, 0};
    if (input.pos == input.size && at == file_size && status == 0) break;
    if (input.pos == input.size && at < file_size) {
      input.size = file_size - at < compressed_room ? file_size - at : compressed_room;
      input.pos = 0;
      if (!read_all((int)fd, compressed, input.size, at)) {
        good = 0;
        break;
      }
      at += input.size;
    }
    status = ZSTD_decompressStream(context, &output, &input);
    if (ZSTD_isError(status) || (status && !output.pos && input.pos == input.size && at == file_size)) break;
    if (take && output.pos) take(output.pos);
    done += output.pos;
  }
  ZSTD_freeDCtx(context);
  return good && (status == 0 || done >= until) ? done : UINT64_MAX;
}
