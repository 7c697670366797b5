"""Translates PTX into C++."""
