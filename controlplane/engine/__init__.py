"""Services and loops over ports. No adapter is named here; `controlplane.app` brings them.

What changes SQL is a plain function over a `Transaction`, so that reading, deciding and writing stand together and the
store decides how they run (on the loop, in a thread, over a network).
"""
