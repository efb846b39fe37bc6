"""Tests of Pillarbox; also the home of what they share: servers, processes, waiting, the history checker."""
