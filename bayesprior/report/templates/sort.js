for (const button of document.querySelectorAll('th button')) {
  button.addEventListener('click', () => {
    const head = button.parentElement, row = head.parentElement;
    const body = row.closest('table').tBodies[0], index = [...row.cells].indexOf(head);
    const down = head.getAttribute('aria-sort') === 'ascending';
    for (const cell of row.cells) cell.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const value = (line) => line.cells[index].dataset.value;
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === '' || y === '') return (x === '') - (y === '');
      const gap = Number(x) - Number(y);
      const sign = Number.isNaN(gap) ? x.localeCompare(y) : gap;
      return down ? -sign : sign;
    };
    body.append(...[...body.rows].sort(order));
  });
}
