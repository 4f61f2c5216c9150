"""Protocol buffers: the names of what can be wrong with a message. What reads one is in the ``.pxd``, to be inlined."""
