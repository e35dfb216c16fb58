"""What earlier versions of ltcache wrote, kept as archives that later versions have to open.

``v0.1.0/NAME.zip`` holds one artefact. :mod:`tests.kept.write` made it by the command line, so that
the same script runs with every version. :mod:`tests.kept.test_kept` opens all of them.
"""
