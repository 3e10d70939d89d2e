"""The tests. A package, so that its helpers import under one name from everywhere."""
