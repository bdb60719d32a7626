/* Count the words of standard input: runs of ASCII letters, in lower case. Prints "count word",
   the most frequent first, those of one count in the order of the alphabet.
   This is the file that the agent edits. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct word {
    char *text;
    long count;
    struct word *next;
};

static struct word *first;

static void *needed(void *memory)
{
    if (!memory) {
        fputs("words: no memory\n", stderr);
        exit(1);
    }
    return memory;
}

static void add(const char *text)
{
    struct word *word;
    for (word = first; word; word = word->next)
        if (strcmp(word->text, text) == 0) {
            word->count++;
            return;
        }
    word = needed(malloc(sizeof *word));
    word->text = needed(malloc(strlen(text) + 1));
    strcpy(word->text, text);
    word->count = 1;
    word->next = first;
    first = word;
}

static int before(const struct word *a, const struct word *b)
{
    if (a->count != b->count)
        return a->count > b->count;
    return strcmp(a->text, b->text) < 0;
}

static void sort(void)
{
    struct word *sorted = NULL;
    while (first) {
        struct word *word = first, **place = &sorted;
        first = word->next;
        while (*place && before(*place, word))
            place = &(*place)->next;
        word->next = *place;
        *place = word;
    }
    first = sorted;
}

int main(void)
{
    size_t length = 0, room = 16;
    char *text = needed(malloc(room));
    int letter;
    do {
        letter = getchar();
        if (letter < 128 && isalpha(letter)) {
            if (length + 1 == room)
                text = needed(realloc(text, room *= 2));
            text[length++] = (char)tolower(letter);
        } else if (length) {
            text[length] = '\0';
            add(text);
            length = 0;
        }
    } while (letter != EOF);
    sort();
    for (struct word *word = first; word; word = word->next)
        printf("%ld %s\n", word->count, word->text);
    return 0;
}
