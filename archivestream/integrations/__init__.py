"""Archives where other libraries look for files: each module needs the package that it is named after."""
