"""On whose behalf something happens."""

import posix

from vsbox.guard.hook.paths import holder_of, is_there
from vsbox.guard.hook.words import read_text


def name_of(metadata):
    """Return "name version" as a METADATA or PKG-INFO file says."""
    found = {}
    for line in read_text(metadata).splitlines():
        key, colon, value = line.partition(":")
        if not line:
            break
        if colon and key in ("Name", "Version"):
            found[key] = value.strip()[:100]
    return " ".join(filter(None, (found.get("Name"), found.get("Version"))))


class Distributions:
    """Maps files to the distributions installed here, by their RECORD; read when somebody asks first."""

    def __init__(self, places):
        self.places = places
        self.known = {}
        self.trees = None

    def of(self, filename):
        """Return "name version", or "" for a file that belongs to none."""
        if filename not in self.known:
            try:
                self.known[filename] = self.search(filename)
            except (OSError, ValueError):
                self.known[filename] = ""
        return self.known[filename]

    def search(self, filename):
        for place in self.places:
            if filename.startswith(place + "/"):
                return self.installed(place, filename[len(place) + 1 :])
        for tree, name in self.editable():
            if filename.startswith(tree + "/"):
                return name
        return self.being_built(filename)

    def installed(self, place, relative):
        for entry in sorted(posix.listdir(place)):
            if entry.endswith(".dist-info") and is_there(f"{place}/{entry}/RECORD"):
                record = "\n" + read_text(f"{place}/{entry}/RECORD")
                if "\n%s," % relative in record or '\n"%s",' % relative in record:
                    return name_of(f"{place}/{entry}/METADATA")
        return relative.split("/")[0]

    def editable(self):
        if self.trees is None:
            self.trees = []
            for place in self.places:
                for entry in sorted(posix.listdir(place)):
                    url = f"{place}/{entry}/direct_url.json"
                    if entry.endswith(".dist-info") and is_there(url):
                        text = read_text(url)
                        tree = text.partition('"file://')[2].partition('"')[0]
                        if tree and '"editable": true' in text:
                            self.trees.append((tree, name_of(f"{place}/{entry}/METADATA")))
        return self.trees

    def being_built(self, filename):
        """The sources of a distribution that an installer has unpacked to build it."""
        directory = holder_of(filename)
        while len(directory) > 1:
            if is_there(f"{directory}/PKG-INFO"):
                return name_of(f"{directory}/PKG-INFO")
            directory = holder_of(directory)
        return ""
