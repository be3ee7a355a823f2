"""Reads objects, trees and diffs of an untrusted repository through the git program."""
