"""The native core: parsing, decoding and batching without the GIL. Private: use `archivestream`."""
