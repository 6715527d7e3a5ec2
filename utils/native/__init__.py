"""The C++ of this project: how it is compiled and called."""
