"""A local storage whose process dies at a chosen moment."""

from gopstream.shards.local_storage import LocalStorage


class Killed(BaseException):
    """As if the process had been killed: nothing may handle it."""


class DyingStorage(LocalStorage):
    """Dies before its n-th change."""

    def __init__(self, root, lives):
        super().__init__(root)
        self.lives = lives

    def change(self):
        if self.lives == 0:
            raise Killed
        self.lives -= 1

    def delete(self, name):
        self.change()
        super().delete(name)

    def create(self, name):
        writer = super().create(name)
        publish = writer.publish

        def dying_publish():
            self.change()
            publish()

        writer.publish = dying_publish
        return writer
